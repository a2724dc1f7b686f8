"""Published weights that the probe evaluates, and the config for it."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from jssl import weights
from jssl.augment import Augment
from jssl.config import command_line
from jssl.config.build import build_model, read_config
from jssl.config.schema import Checkpoint, Config, Data, Probe, Train
from jssl.data.open import stored_size_px
from jssl.objectives import SimCLR
from jssl.optim import Optim
from jssl.probe.dataset import change_dataset
from jssl.probe.records import BASELINES
from jssl.probe.runner import GOODPUT, GOODPUT_KINDS, Runner, probing
from jssl.runtime import distributed
from jssl.runtime.goodput import Clock
from jssl.runtime.paths import as_path
from jssl.runtime.workdir import check_workdir_shared
from jssl.weights import Published

_RESERVED = (*BASELINES, "backbone", "student", "views")


class PublishedWeights:
  """A file or folder of published weights, by a name in records.

  Attributes:
    path: the file or folder.
    name: name of the features in records and tables.
    model: the model in the file.
    image_shape: shape of the images that the backbone sees.
  """

  def __init__(self, path: str, *, name: str = "", image_size_px: int = 0):
    """Recognises the file.

    Args:
      path: see `jssl.weights.load`.
      name: see above; "" for the name of the folder, or of the file unless it
        is called model.
      image_size_px: side of the images; 0 for that of the stored positions.

    Raises:
      FileNotFoundError: if there are no weights.
      ValueError: if they cannot be read, or the name is one of other features.
    """
    found = Published(path)
    absolute = as_path(path).absolute()
    if absolute.name.startswith("model."):
      absolute = absolute.parent
    stem = absolute.name.removesuffix(".safetensors")
    self.path, self.name, self.model = path, name or stem, found.model
    if self.name in _RESERVED:
      raise ValueError(
        f"--name={self.name}: expected none of {', '.join(_RESERVED)}, which "
        "are names of other features"
      )
    native, _, channels = found.image_shape
    size = image_size_px or native
    self.image_shape = (size, size, channels)


def published_config(
  workdir: str | os.PathLike,
  published: PublishedWeights,
  dataset: str,
  data_dir: str,
  test_split: str,
) -> Config:
  """Returns a config for the probe of published weights.

  Data set and settings of the probe are those of the run in the workdir, whose
  baselines serve both. Without a run, they are the defaults.
  """
  size = published.image_shape[0]
  if (as_path(workdir) / "config.json").exists():
    own = change_dataset(read_config(workdir), dataset, data_dir, test_split)
    data, probe = own.data, dataclasses.replace(own.probe, baselines=())
  elif dataset:
    data = Data(
      name=dataset,
      batch_size=1,
      image_size_px=stored_size_px(dataset) or size,
      data_dir=data_dir,
      test_split=test_split or "test",
      in_memory=False,
    )
    probe = Probe(baselines=("pixels",))
  else:
    raise ValueError(
      f"--weights needs --dataset, because --workdir={workdir} has no run"
    )
  return Config(
    data=data,
    augment=Augment(crop_size_px=size, crop_min_area=1.0),
    model=published.model,
    probe=probe,
    # The probe of published weights uses none of these.
    objective=SimCLR(),
    optim=Optim("sgd", learning_rate=1.0),
    train=Train(steps=1),
    checkpoint=Checkpoint(every_steps=1),
  )


def run_published(
  workdir: str | os.PathLike,
  published: PublishedWeights,
  *,
  dataset: str = "",
  data_dir: str = "",
  test_split: str = "",
  overwrite: bool = False,
  overrides: Sequence[str] = (),
  log: Callable[[str], None] = distributed.log_on_first,
) -> None:
  """Adds records of published weights to a workdir, of a run or not.

  The other arguments are the flags of `python -m jssl.probe`; `overrides` are
  those of `probe` in the config. Without a run, `dataset` is required and other
  settings of the probes are their defaults.

  Raises:
    FileNotFoundError: if there are no weights or no data set.
    ValueError: as for `run`, or if the weights cannot be read or do not fit the
      images.
  """
  clock = Clock(as_path(workdir) / GOODPUT, GOODPUT_KINDS)
  config = command_line.override(
    published_config(workdir, published, dataset, data_dir, test_split),
    overrides,
    "probe",
  )
  if distributed.is_first():
    as_path(workdir).mkdir(parents=True, exist_ok=True)
  check_workdir_shared(workdir)
  with probing(workdir, "Lower --image_size_px"), clock.running():
    runner = Runner(
      workdir,
      config,
      clock,
      overwrite=overwrite,
      diagnostics=False,
      own_data=False,
      log=log,
      channels=published.image_shape[-1],
    )
    runner.run_on(
      published.name,
      lambda: weights.load_for(
        build_model(config), published.image_shape, published.path
      ),
    )
