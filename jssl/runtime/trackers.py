"""Metrics of a run in TensorBoard, Weights & Biases and MLflow.

Each is an optional package. An error of a tracker is logged and never stops a
run, whose own files have all metrics.
"""

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict
from jaxtyping import UInt8

from jssl.runtime import files
from jssl.runtime.paths import Path, StorePath, as_path, is_url

# Identifiers of the runs that a workdir has at services.
_IDS = "trackers.json"


class Tracker(Protocol):
  """A service that receives metrics."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Receives scalars of a step."""

  def image(self, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
    """Receives an image."""

  def close(self, *, failed: bool) -> None:
    """Ends the connection; `failed` unless the run has reached its end."""


class TensorBoard:
  """Writes event files in a folder."""

  def __init__(self, folder: str | os.PathLike, step: int | None = None):
    """Opens a new event file; TensorBoard drops older rows after `step`."""
    from tensorboardX import SummaryWriter

    purge_step = None if step is None else step + 1
    self._writer = SummaryWriter(os.fspath(folder), purge_step=purge_step)
    # In a bucket a flush uploads all events; tensorboardX flushes after 120 s.
    self._flush = not is_url(folder)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """See `Tracker`."""
    for name, value in values.items():
      self._writer.add_scalar(name, value, step, display_name=name)
    if self._flush:
      self._writer.flush()

  def image(self, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
    """See `Tracker`."""
    self._writer.add_image(name, image, dataformats="HWC")

  def close(self, *, failed: bool) -> None:
    """See `Tracker`."""
    self._writer.close()


class WandB:
  """A run of a project of Weights & Biases.

  WANDB_MODE=offline keeps it in the workdir, for `wandb sync`.
  """

  def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
    """Starts the run, or continues that of the workdir."""
    import wandb

    known = _ids(workdir).get("wandb")
    self._image = wandb.Image
    self._run = wandb.init(
      project=project,
      name=workdir.absolute().name,
      # Local files of a run in a store are in the current folder.
      dir=None if isinstance(workdir, StorePath) else workdir,
      id=known,
      resume="allow" if known else None,
      config=dict(config),
    )
    _add_id(workdir, "wandb", self._run.id)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """See `Tracker`."""
    self._run.log(dict(values), step=step)

  def image(self, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
    """See `Tracker`."""
    self._run.log({name: self._image(image)}, step=0)

  def close(self, *, failed: bool) -> None:
    """See `Tracker`."""
    self._run.finish(exit_code=int(failed))


class MLflow:
  """A run of an experiment of MLflow, at MLFLOW_TRACKING_URI."""

  def __init__(self, experiment: str, workdir: Path, config: Mapping[str, Any]):
    """Starts the run, or continues that of the workdir."""
    import mlflow

    self._client = mlflow.MlflowClient()
    self._metric = mlflow.entities.Metric
    self._sent: Any = None
    self._run_id = _ids(workdir).get("mlflow", "")
    if not self._run_id:
      found = self._client.get_experiment_by_name(experiment)
      number = (
        found.experiment_id
        if found
        else self._client.create_experiment(experiment)
      )
      run = self._client.create_run(number, run_name=workdir.absolute().name)
      self._run_id = run.info.run_id
      for key, value in flatten_dict(dict(config), sep=".").items():
        self._client.log_param(self._run_id, key, value)
      _add_id(workdir, "mlflow", self._run_id)
    self._client.update_run(self._run_id, "RUNNING")

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """See `Tracker`."""
    now = round(1000 * time.time())
    metrics = [self._metric(k, v, now, step) for k, v in values.items()]
    # A thread sends them in order: a server that is down delays no step.
    self._sent = self._client.log_batch(
      self._run_id, metrics, synchronous=False
    )

  def image(self, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
    """See `Tracker`."""
    self._client.log_image(self._run_id, image, f"{name}.png")

  def close(self, *, failed: bool) -> None:
    """See `Tracker`."""
    if self._sent:
      self._sent.wait()
    self._client.set_terminated(
      self._run_id, "FAILED" if failed else "FINISHED"
    )


class Trackers:
  """All trackers of a run."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    *,
    step: int | None = None,
    wandb: str = "",
    mlflow: str = "",
  ):
    """Opens the trackers; an error is logged.

    Args:
      workdir: workdir of the run. TensorBoard has its event files there, if
        tensorboardX is installed.
      config: the config of the run, as nested dicts.
      step: steps done, after which rows of an earlier start do not count; None
        if there is no earlier start.
      wandb: project of Weights & Biases; "" for none.
      mlflow: experiment of MLflow; "" for none.
    """
    path = as_path(workdir)
    makers: list[Callable[[], Tracker]] = []
    if importlib.util.find_spec("tensorboardX"):
      makers.append(lambda: TensorBoard(path, step))
    if wandb:
      makers.append(lambda: WandB(wandb, path, config))
    if mlflow:
      makers.append(lambda: MLflow(mlflow, path, config))
    self._open: list[Tracker] = []
    for make in makers:
      with _logged_errors():
        self._open.append(make())

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Sends scalars of a step."""
    for tracker in self._open:
      with _logged_errors():
        tracker.scalars(step, values)

  def image(
    self, name: str, draw: Callable[[], UInt8[np.ndarray, "h w c"]]
  ) -> None:
    """Draws an image and sends it."""
    image = None
    for tracker in self._open:
      with _logged_errors():
        image = draw() if image is None else image
        tracker.image(name, image)

  def close(self, *, failed: bool = False) -> None:
    """Ends all connections; `failed` unless the run has reached its end."""
    for tracker in self._open:
      with _logged_errors():
        tracker.close(failed=failed)


def check_installed(*, wandb: str, mlflow: str) -> None:
  """Raises ValueError if a tracker of the config is not installed."""
  for name, value in {"wandb": wandb, "mlflow": mlflow}.items():
    if value and importlib.util.find_spec(name) is None:
      raise ValueError(
        f"log.{name}={value!r} needs the package {name}: pip install "
        f"'jssl[{name}]', or set log.{name} to \"\""
      )


@contextlib.contextmanager
def _logged_errors() -> Iterator[None]:
  """Logs an error, which may be of any type: these are other libraries."""
  try:
    yield
  except Exception as error:
    logging.error("Could not send metrics to a tracker: %s", error)


def _ids(workdir: Path) -> dict[str, str]:
  return files.read_json(workdir / _IDS) or {}


def _add_id(workdir: Path, name: str, value: str) -> None:
  files.write_json(workdir / _IDS, {**_ids(workdir), name: value})
