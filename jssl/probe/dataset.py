"""The data set of a probe, and the features of its images."""

import dataclasses
import functools
import os

import jax
import numpy as np
from jax.sharding import Mesh

from jssl import mesh as mesh_lib
from jssl.config.build import open_split
from jssl.config.parse import replace
from jssl.config.schema import Config, Data, Probe
from jssl.diagnostics import SecondMoment, second_moment
from jssl.probe import features
from jssl.probe.encoders import Encoder
from jssl.probe.features import Features
from jssl.runtime import distributed


@dataclasses.dataclass(frozen=True)
class FeatureSet:
  """Features of one encoder; the mesh is of local devices."""

  encoder: Encoder
  train: Features
  test: Features
  mesh: Mesh

  def _of_columns(self, columns: slice | np.ndarray) -> "FeatureSet":
    train, test = (
      split._replace(h=split.h[:, columns]) for split in (self.train, self.test)
    )
    return dataclasses.replace(self, train=train, test=test)

  @functools.cached_property
  def pooled(self) -> "FeatureSet":
    """Pooled features."""
    dims = self.encoder.dims
    return self._of_columns(slice(dims[0])) if dims else self

  def columns(self, settings: Probe) -> slice | np.ndarray:
    """Returns the columns that `probe.features` names; pixels are one kind."""
    dims = self.encoder.dims
    if settings.features == "pooled" or not dims:
      return slice(dims[0] if dims else None)
    pooled, width = dims
    columns = np.arange(self.train.h.shape[1])
    mean, blocks = columns[pooled:][:width], columns[-settings.blocks * width :]
    chosen = {"mean": [mean], "cls": [blocks], "cls_mean": [blocks, mean]}
    return np.concatenate(chosen[settings.features])

  def selected(self, settings: Probe) -> "FeatureSet":
    """Returns the features that `probe.features` names."""
    columns = self.columns(settings)
    if isinstance(columns, slice):
      return self.pooled
    return self._of_columns(columns)

  @functools.cached_property
  def moment(self) -> SecondMoment:
    """Second moment of the training features."""
    return second_moment(self.train.h)


class ProbeDataset:
  """A data set to probe on.

  The local devices of `mesh` fit the probes, the same on every process; all
  devices, `global_mesh`, extract the features.
  """

  def __init__(self, workdir: str | os.PathLike, config: Config):
    """Opens both splits; ValueError if processes have different images."""
    data = config.data
    self._workdir, self._config = workdir, config
    self.name = data.name
    self.train = open_split(data, data.split)
    self.test = open_split(data, data.test_split)
    self._keys = [features.source_digest(s) for s in (self.train, self.test)]
    distributed.check_same("\n".join(self._keys), f"images of {data.name}")
    self.mesh = mesh_lib.make_mesh(-1, 1, jax.local_devices())
    self.global_mesh = mesh_lib.make_mesh(-1, 1)

  @property
  def has_labels(self) -> bool:
    """True if probes can be fitted."""
    return bool(self.train.num_classes)

  def extract(self, encoder: Encoder) -> FeatureSet:
    """Returns the features of an encoder, from the cache if possible."""
    data = self._config.data
    train, test = (
      features.extract(
        features.path(
          self._workdir,
          dataset=self.name,
          split=split,
          name=encoder.name,
          key=features.digest(encoder.key, key),
        ),
        encoder.encode,
        source,
        batch_size=self._config.probe.batch_size,
        workers=data.workers,
        mesh=self.global_mesh,
      )
      for split, source, key in zip(
        (data.split, data.test_split),
        (self.train, self.test),
        self._keys,
        strict=True,
      )
    )
    return FeatureSet(encoder, train, test, self.mesh)


def check_splits(data: Data) -> None:
  """Opens both splits, without reading images; raises an error if it cannot."""
  on_disk = dataclasses.replace(data, in_memory=False)
  for split in (data.split, data.test_split):
    open_split(on_disk, split)


def change_dataset(
  config: Config, name: str, data_dir: str, test_split: str
) -> Config:
  """Returns the config with another data set, or another directory of it."""
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
