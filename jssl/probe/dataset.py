"""The set that a run is judged on."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from jssl import mesh as mesh_lib
from jssl.config.build import open_split
from jssl.config.schema import Config, Probe
from jssl.data.source import Source
from jssl.diagnostics import SecondMoment, second_moment
from jssl.probe import features
from jssl.probe.encoders import Subject
from jssl.probe.features import Features
from jssl.runtime import distributed


class Seen(NamedTuple):
  """A subject and its features.

  Attributes:
    subject: what is probed.
    train: its features,
    test: and those of test.
    moment: of train; summed when it is first asked for, and once.
  """

  subject: Subject
  train: Features
  test: Features
  moment: Callable[[], SecondMoment]


@dataclasses.dataclass(frozen=True)
class JudgedSet:
  """A set that runs are judged on, and where its features are kept.

  Attributes:
    name: of the set.
    splits: what to fit on, and what to test on.
    sources: the same, opened.
    keys: a checksum of each.
    workdir: of the run.
    batch_size: images of a batch of the extraction.
    workers: processes that decode them.
    mesh: of all devices of this process, whatever the run was trained on.
      Each process fits the same probes to the same features.
    everywhere: of all devices of all processes, which make the features.
  """

  name: str
  splits: tuple[str, str]
  sources: tuple[Source, Source]
  keys: tuple[str, str]
  workdir: str | os.PathLike
  batch_size: int
  workers: int
  mesh: Mesh
  everywhere: Mesh

  def features(self, subject: Subject) -> tuple[Features, Features]:
    """Returns the features of train and test, kept or made now."""
    train, test = (
      features.extract(
        features.path(
          self.workdir,
          dataset=self.name,
          split=split,
          name=subject.name,
          key=features.digest(subject.key, key),
        ),
        subject.encode,
        source,
        batch_size=self.batch_size,
        workers=self.workers,
        mesh=self.everywhere,
      )
      for split, source, key in zip(
        self.splits, self.sources, self.keys, strict=True
      )
    )
    return train, test

  def look(self, subject: Subject) -> Seen:
    """Returns a subject with its features, for all that reads them."""
    train, test = self.features(subject)
    moment = functools.cache(lambda: second_moment(train.h, mesh=self.mesh))
    return Seen(subject, train, test, moment)

  @property
  def has_labels(self) -> bool:
    """Whether a probe can be fitted."""
    return bool(self.sources[0].num_classes)


def open_set(
  workdir: str | os.PathLike,
  config: Config,
  settings: Probe,
  *,
  without_labels: bool = False,
) -> JudgedSet:
  """Opens the set of a config.

  Args:
    workdir: of the run.
    config: of the run.
    settings: of the probe.
    without_labels: whether it may have none.

  Raises:
    ValueError: it has no labels, and must; or processes have different sets.
  """
  data = config.data
  splits = (data.split, data.test_split)
  train, test = (open_split(data, split) for split in splits)
  if not (train.num_classes or without_labels):
    raise ValueError(
      f"{data.name} has no labels; a probe needs some: choose another set "
      "with --dataset, or measure with --diagnostics what needs none"
    )
  keys = (features.source_digest(train), features.source_digest(test))
  distributed.check_same("\n".join(keys), f"images of {data.name}")
  return JudgedSet(
    name=data.name,
    splits=splits,
    sources=(train, test),
    keys=keys,
    workdir=workdir,
    batch_size=settings.batch_size,
    workers=data.workers,
    mesh=mesh_lib.make_mesh(-1, 1, jax.local_devices()),
    everywhere=mesh_lib.make_mesh(-1, 1),
  )
