"""Parts of a probe: those that are measured, and those without records yet."""

from collections.abc import Callable
from typing import Any

from jssl.augment import corruptions
from jssl.config.build import has_teacher
from jssl.config.schema import Config
from jssl.data.source import Segmented
from jssl.probe.dataset import ProbeDataset
from jssl.probe.diagnosis import sample_settings
from jssl.probe.record_file import RecordFile
from jssl.probe.records import Part
from jssl.probe.suite import settings_of_student, vectors
from jssl.runtime import distributed


class Plan:
  """Decides what to measure of each encoder.

  Attributes:
    parts: parts of an encoder, in the order of their measurement.
    evaluated: backbone of a checkpoint to evaluate, "teacher" or "student".
  """

  def __init__(
    self,
    config: Config,
    dataset: ProbeDataset,
    records: RecordFile,
    *,
    own_data: bool,
    diagnostics: bool,
    overwrite: bool,
    log: Callable[[str], None],
  ):
    """Chooses the parts; the other arguments are those of `Runner`.

    Raises:
      ValueError: if the data set does not allow what the config asks for.
    """
    self._config, self._settings = config, config.probe
    self._dataset, self._records = dataset, records
    self._overwrite = overwrite
    name = config.data.name
    if not (dataset.has_labels or diagnostics):
      raise ValueError(
        f"{name} has no labels, which probes need: choose another set with "
        "--dataset, or measure without labels by --diagnostics"
      )
    if self._settings.select_by != "accuracy" and own_data and not diagnostics:
      raise ValueError(
        f'probe.select_by="{self._settings.select_by}" needs --diagnostics, '
        'which measures it; or set it to "accuracy"'
      )
    self.parts: list[Part] = ["spectrum"]
    if dataset.has_labels and config.probe.probes:
      self.parts.append("probe")
    if config.probe.corrupted_images:
      if dataset.has_labels:
        self._check_corruptible()
        self.parts.append("robustness")
      else:
        log(f"{name} has no labels: robustness is skipped.")
    if config.probe.dense_images:
      if isinstance(dataset.train, Segmented):
        self.parts.append("dense")
      else:
        log(f"{name} has no masks: the dense probe is skipped.")
    if diagnostics:
      self.parts.append("diagnostics")
    self.evaluated = "teacher" if has_teacher(config) else "student"

  def _check_corruptible(self) -> None:
    channels = self._dataset.train.image_shape[-1]
    size, smallest = self._config.augment.crop_size_px, corruptions.SMALLEST_PX
    if channels not in (1, 3) or size < smallest:
      raise ValueError(
        f"probe.corrupted_images={self._settings.corrupted_images}: expected "
        f"0, because corruptions need 1 or 3 channels and {smallest} px, but "
        f"images of {self._config.data.name} have {channels} channels and "
        f"augment.crop_size_px={size}"
      )

  def _wanted(self, kind: str) -> list[Part]:
    if kind == "student":
      # The trained backbone beside an averaged one.
      beside = self.evaluated == "teacher"
      if not (beside and settings_of_student(self._settings).probes):
        return []
      return [part for part in self.parts if part == "probe"]
    if kind != "pixels":
      return self.parts
    # Pixels have no views, and are only a baseline of the probes.
    if not {"probe", "dense"} & {*self.parts}:
      return []
    return [part for part in self.parts if part != "diagnostics"]

  def missing(self, kind: str, step: int) -> list[Part]:
    """Returns the parts without records, the same on all processes."""
    key = (kind, step, self._dataset.name)
    fields = {"backbone": self.evaluated} if kind == "backbone" else {}
    missing = [
      part
      for part in self._wanted(kind)
      if self._overwrite
      or key
      not in self._records.done(part, **fields, **self.settings(part, kind))
    ]
    return distributed.broadcast_from_first(missing)

  def settings(self, part: Part, kind: str) -> dict[str, Any]:
    """Returns the fields of a part's records that depend on the config."""
    if part == "probe":
      k = min(self._settings.retrieval_neighbours, len(self._dataset.train))
      return {
        "vectors": vectors(self._settings, kind),
        **({"neighbours": k} if k else {}),
      }
    if part == "robustness":
      return {
        "vectors": vectors(self._settings, kind),
        "images_requested": self._settings.corrupted_images,
      }
    if part == "dense":
      return {"images_requested": self._settings.dense_images}
    return sample_settings(self._settings) if part == "diagnostics" else {}
