"""The data set of a probe, and the features of its images."""

import dataclasses
import functools
import os

import jax
from jax.sharding import Mesh

from jssl import mesh as mesh_lib
from jssl.config.build import open_split
from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.data.source import Source
from jssl.diagnostics import SecondMoment, second_moment
from jssl.probe import features
from jssl.probe.encoders import Encoder
from jssl.probe.features import Features
from jssl.runtime import distributed


@dataclasses.dataclass(frozen=True)
class FeatureSet:
  """Features of one encoder on train and test.

  Attributes:
    encoder: the encoder.
    train: features of the training images.
    test: features of the test images.
    mesh: local devices.
  """

  encoder: Encoder
  train: Features
  test: Features
  mesh: Mesh

  @functools.cached_property
  def moment(self) -> SecondMoment:
    """Second moment of the training features."""
    return second_moment(self.train.h, mesh=self.mesh)


@dataclasses.dataclass(frozen=True)
class ProbeDataset:
  """A data set to probe on.

  Attributes:
    name: name of the set.
    splits: names of the train and the test split.
    sources: the opened splits.
    keys: checksum of each split.
    workdir: directory of the run, where features are cached.
    batch_size: images per batch of the extraction.
    workers: processes that decode images.
    mesh: local devices, which fit the probes. Every process fits the same.
    global_mesh: devices of all processes, which extract the features.
  """

  name: str
  splits: tuple[str, str]
  sources: tuple[Source, Source]
  keys: tuple[str, str]
  workdir: str | os.PathLike
  batch_size: int
  workers: int
  mesh: Mesh
  global_mesh: Mesh

  @property
  def has_labels(self) -> bool:
    """True if probes can be fitted."""
    return bool(self.sources[0].num_classes)

  def extract(self, encoder: Encoder) -> FeatureSet:
    """Returns the features of an encoder, from the cache if possible."""
    train, test = (
      features.extract(
        features.path(
          self.workdir,
          dataset=self.name,
          split=split,
          name=encoder.name,
          key=features.digest(encoder.key, key),
        ),
        encoder.encode,
        source,
        batch_size=self.batch_size,
        workers=self.workers,
        mesh=self.global_mesh,
      )
      for split, source, key in zip(
        self.splits, self.sources, self.keys, strict=True
      )
    )
    return FeatureSet(encoder, train, test, self.mesh)


def change_dataset(
  config: Config, name: str, data_dir: str, test_split: str
) -> Config:
  """Returns the config with another data set, or another directory of it.

  Raises:
    ValueError: if there is a `test_split` but no other data set.
  """
  changes: dict[str, str] = {}
  if name and name != config.data.name:
    changes |= {
      "data.name": name,
      "data.split": "train",
      "data.test_split": test_split or "test",
    }
  elif test_split:
    raise ValueError(
      f"--test_split={test_split} needs a --dataset other than the run's own "
      f"{config.data.name}, whose test split is data.test_split"
    )
  if data_dir:
    changes["data.data_dir"] = data_dir
  return replace(config, changes)


def open_dataset(
  workdir: str | os.PathLike,
  config: Config,
  *,
  needs_labels: bool,
) -> ProbeDataset:
  """Opens the data set of a config.

  Args:
    workdir: directory of the run.
    config: config of the run.
    needs_labels: True if a set without labels is an error.

  Raises:
    ValueError: if labels are needed and missing, or if processes have different
      images.
  """
  data = config.data
  splits = (data.split, data.test_split)
  train, test = (open_split(data, split) for split in splits)
  if needs_labels and not train.num_classes:
    raise ValueError(
      f"{data.name} has no labels, which probes need: choose another set with "
      "--dataset, or measure without labels by --diagnostics"
    )
  keys = (features.source_digest(train), features.source_digest(test))
  distributed.check_same("\n".join(keys), f"images of {data.name}")
  return ProbeDataset(
    name=data.name,
    splits=splits,
    sources=(train, test),
    keys=keys,
    workdir=workdir,
    batch_size=config.probe.batch_size,
    workers=data.workers,
    mesh=mesh_lib.make_mesh(-1, 1, jax.local_devices()),
    global_mesh=mesh_lib.make_mesh(-1, 1),
  )
