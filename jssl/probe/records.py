"""The schema of `probe.jsonl`: one record per line.

The probe writes the records; the report and the studies read them.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from absl import logging

from jssl.runtime import files
from jssl.runtime.trackers import Trackers

# Records of one part are measured together and replaced together.
Part = Literal["spectrum", "probe", "robustness", "dense", "diagnostics"]
PARTS: tuple[Part, ...] = get_args(Part)

BASELINES = {"pixels": "raw pixels", "random": "random backbone"}
PROBES = {
  **{"linear": "linear", "mlp": "MLP", "knn": "kNN"},
  # The head of a supervised run, which no probe fits.
  "classifier": "classifier",
}

_NAME = "probe.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  """Fields of every record.

  `step` is the training step of the checkpoint; 0 for other features.
  `features` is "backbone" for the backbone of a checkpoint that is evaluated,
  "student" for the trained backbone beside an averaged one, "random", "pixels",
  "views" for augmented images, or the name of published weights. `backbone`
  says which one of a checkpoint was measured: "teacher" is the averaged
  backbone, which is evaluated where the method has one, and "student" the
  trained one; "" for other features.
  """

  part: Part
  step: int
  dataset: str
  features: str
  backbone: Literal["student", "teacher", ""] = ""

  @property
  def is_checkpoint(self) -> bool:
    """True for features of a checkpoint of the run."""
    return self.features in ("backbone", "student")

  @property
  def title(self) -> str:
    """Name of the features in tables and figures."""
    if self.features in BASELINES:
      return BASELINES[self.features]
    if not self.is_checkpoint:
      return self.features
    # Without a teacher there is only one backbone.
    if self.features == "student" or self.backbone == "teacher":
      return f"pretrained ({self.backbone})"
    return "pretrained"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeRecord(Record):
  """Accuracy of one classifier, in [0, 1], means over seeds.

  `label_fraction_used` is larger than the `label_fraction` asked for where
  classes have few images: at least two images of each class are labelled.
  `vectors` is `probe.features`, with the number of blocks if several.
  `probe="classifier"` is the head of a supervised run. No images were held out
  of its training: its `validation_accuracy` is the accuracy on train.
  `chosen` has hyper-parameters by name, one value per seed. `seconds` is the
  duration of all fits, and `time` the seconds since 1970.
  """

  part: Part = "probe"
  probe: str
  label_fraction: float
  label_fraction_used: float
  test_accuracy: float
  test_accuracy_std: float
  validation_accuracy: float
  seeds: int
  chosen: dict[str, list[Any]]
  seconds: float
  time: float
  vectors: str = "pooled"

  @property
  def name(self) -> str:
    """Name of the probe, with the percentage of labels if not all."""
    name = PROBES[self.probe]
    if self.label_fraction == 1:
      return name
    return f"{name} ({round(100 * self.label_fraction_used, 2):g}% of labels)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassesRecord(Record):
  """Test accuracy of one probe by class, its calibration and confusion.

  Shares are in [0, 1], means over seeds. Lists have an entry for each class:
  its name, its number of test images and the accuracy on them, 0 without any.
  `balanced_accuracy` is the mean over classes with test images.
  `calibration_error` is the expected calibration error in 15 bins of equal
  width. Counts of confusion are summed over seeds: up to 100 classes
  `confusion` has a row for each label and a column for each prediction; above,
  it is empty and `confused` has the 50 most frequent errors, as label,
  prediction and count.
  """

  part: Part = "probe"
  probe: str
  vectors: str
  seeds: int
  balanced_accuracy: float
  balanced_accuracy_std: float
  calibration_error: float
  calibration_error_std: float
  names: list[str]
  images: list[int]
  accuracy: list[float]
  confusion: list[list[int]]
  confused: list[list[int]]

  def most_confused(self, count: int) -> list[tuple[str, str, int]]:
    """Returns the most frequent errors: label, prediction and count."""
    errors = self.confused or [
      [label, predicted, times]
      for label, row in enumerate(self.confusion)
      for predicted, times in enumerate(row)
      if times and label != predicted
    ]
    most = sorted(errors, key=lambda error: -error[2])[:count]
    return [(self.names[a], self.names[b], times) for a, b, times in most]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalRecord(Record):
  """Retrieval of the `neighbours` nearest train images by test images.

  Average precision in [0, 1], see `retrieval.average_precision`: the mean over
  test images, over the means of classes, and lists with an entry for each
  class, 0 for classes without test images.
  """

  part: Part = "probe"
  vectors: str
  neighbours: int
  mean_average_precision: float
  balanced_average_precision: float
  names: list[str]
  images: list[int]
  average_precision: list[float]

  @property
  def name(self) -> str:
    """Name of the measure in tables."""
    return f"mAP@{self.neighbours}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessRecord(Record):
  """Accuracy of the linear probe on corrupted test images, in [0, 1].

  Means over seeds. `accuracy` has the name of each corruption and a value for
  each severity, 1 to 5; `corrupted_accuracy` is their mean, and
  `clean_accuracy` that of the same images before. `images` are fewer than
  `images_requested`, `probe.corrupted_images`, if test has fewer.
  `image_size_px` is the side of the images, which decides about the
  parameters, see `jssl.augment.corrupt`.
  """

  part: Part = "robustness"
  vectors: str
  seeds: int
  images_requested: int
  images: int
  image_size_px: int
  clean_accuracy: float
  clean_accuracy_std: float
  corrupted_accuracy: float
  corrupted_accuracy_std: float
  accuracy: dict[str, list[float]]
  seconds: float
  time: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseRecord(Record):
  """Segmentation by one head on patch tokens, in [0, 1], means over seeds.

  `images` of train with `patches` tokens each were fitted and `test_images`
  evaluated; `images_requested` is `probe.dense_images`.
  """

  part: Part = "dense"
  probe: str
  mean_iou: float
  mean_iou_std: float
  pixel_accuracy: float
  pixel_accuracy_std: float
  validation_iou: float
  seeds: int
  images_requested: int
  images: int
  test_images: int
  patches: int
  chosen: dict[str, list[Any]]
  seconds: float
  time: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrumRecord(Record):
  """Spectrum of the centred training features; lists are descending."""

  part: Part = "spectrum"
  singular_values: list[float]
  deviation: list[float]
  collapse_auc: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ViewsRecord(Record):
  """Measures of augmented views; `num_classes` counts those of the sample."""

  part: Part = "diagnostics"
  images_requested: int
  images: int
  views: int
  num_classes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiagnosticsRecord(_ViewsRecord):
  """Diagnostics `at` the "backbone" or the outputs of the named head.

  `not_measured` has the reason for each missing name.
  """

  at: str
  values: dict[str, float]
  curves: dict[str, list[float]]
  not_measured: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConcentrationRecord(_ViewsRecord):
  """Concentration of the classes under the augmentation.

  Upper and lower bounds of 1 - sigma at each diameter of `deltas`. A row of
  `per_class` is the upper bound of the class in `classes`. `not_measured` is
  the reason if the curves are empty.
  """

  deltas: list[float] = dataclasses.field(default_factory=list)
  one_minus_sigma: list[float] = dataclasses.field(default_factory=list)
  lower_bound: list[float] = dataclasses.field(default_factory=list)
  per_class: list[list[float]] = dataclasses.field(default_factory=list)
  classes: list[int] = dataclasses.field(default_factory=list)
  not_measured: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotMeasuredRecord(Record):
  """A part that could not be measured, and why.

  `settings` has the fields of the part's records that depend on the config.
  """

  reason: str
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


_TYPES: dict[str, type[Record]] = {
  "probe": ProbeRecord,
  "classes": ClassesRecord,
  "retrieval": RetrievalRecord,
  "robustness": RobustnessRecord,
  "dense": DenseRecord,
  "spectrum": SpectrumRecord,
  "diagnostics": DiagnosticsRecord,
  "concentration": ConcentrationRecord,
  "not_measured": NotMeasuredRecord,
}
_TYPE_NAMES = {cls: name for name, cls in _TYPES.items()}


def to_json(record: Record) -> str:
  """Returns the line of a record in `probe.jsonl`."""
  name = _TYPE_NAMES[type(record)]
  return json.dumps({"record": name, **dataclasses.asdict(record)})


def _from_row(row: dict[str, Any]) -> Record | None:
  """Returns the record of a row; None unless all fields have their type."""
  fields = dict(row)
  cls = _TYPES.get(str(fields.pop("record", None)))
  if cls is None:
    return None
  if fields.get("features") == "backbone":
    # Earlier versions wrote no such field and measured the student.
    fields.setdefault("backbone", "student")
  hints = get_type_hints(cls)
  if not all(_matches(value, hints.get(k)) for k, value in fields.items()):
    return None
  with contextlib.suppress(TypeError):  # A field without default is missing.
    return cls(**fields)
  return None


def _matches(value: Any, hint: Any) -> bool:
  """True if a JSON value has the type of a field."""
  origin, arguments = get_origin(hint), get_args(hint)
  if hint is Any:
    return True
  if origin is Literal:
    return value in arguments
  if origin is list:
    return isinstance(value, list) and all(
      _matches(entry, arguments[0]) for entry in value
    )
  if origin is dict:
    return isinstance(value, dict) and all(
      _matches(entry, arguments[1]) for entry in value.values()
    )
  return isinstance(value, int | float if hint is float else hint or ())


def summary(records: Iterable[Record]) -> str:
  """Returns records in one line, for the log."""
  return ", ".join(map(_summary, records))


def _summary(record: Record) -> str:
  match record:
    case ProbeRecord():
      return f"{record.name} {100 * record.test_accuracy:.1f}%"
    case ClassesRecord():
      return (
        f"{PROBES[record.probe]} class-balanced "
        f"{100 * record.balanced_accuracy:.1f}%"
      )
    case RetrievalRecord():
      return f"{record.name} {100 * record.mean_average_precision:.1f}%"
    case RobustnessRecord():
      return (
        f"linear {100 * record.corrupted_accuracy:.1f}% on corrupted images, "
        f"{100 * record.clean_accuracy:.1f}% on clean ones"
      )
    case DenseRecord():
      return f"{PROBES[record.probe]} mean IoU {100 * record.mean_iou:.1f}%"
    case SpectrumRecord():
      return f"collapse AUC {record.collapse_auc:.3f}"
    case DiagnosticsRecord():
      missing = len(record.not_measured)
      suffix = f" ({missing} not measured)" if missing else ""
      return f"{len(record.values)} diagnostics of {record.at}{suffix}"
    case NotMeasuredRecord():
      return f"{record.part} not measured: {record.reason}"
  return "concentration of the classes"


def _scalars(record: Record) -> dict[str, float]:
  """Returns TensorBoard scalars by name."""
  name = f"{record.dataset}/{record.features}"
  match record:
    case ProbeRecord():
      return {f"probe/{name}/{record.name}": record.test_accuracy}
    case ClassesRecord():
      name = f"probe/{name}/{PROBES[record.probe]}"
      return {
        f"{name}/class-balanced accuracy": record.balanced_accuracy,
        f"{name}/calibration error": record.calibration_error,
      }
    case RetrievalRecord():
      return {f"retrieval/{name}/{record.name}": record.mean_average_precision}
    case RobustnessRecord():
      return {f"robustness/{name}/linear": record.corrupted_accuracy}
    case DenseRecord():
      name = f"dense/{name}/{PROBES[record.probe]}"
      return {
        f"{name}/mean IoU": record.mean_iou,
        f"{name}/pixel accuracy": record.pixel_accuracy,
      }
    case DiagnosticsRecord():
      name = f"diagnostics/{name}/{record.at}"
      return {f"{name}/{k}": float(x) for k, x in record.values.items()}
  return {}


class RecordFile:
  """`probe.jsonl` in a workdir. Writes are atomic."""

  def __init__(self, workdir: str | os.PathLike):
    """Names the file, which need not exist."""
    self._path = pathlib.Path(workdir) / _NAME

  def read(self) -> list[Record]:
    """Reads all records, if any.

    Damaged lines, and records of another version, are skipped with a warning.
    """
    rows = files.read_json_lines(self._path)
    records = [record for row in rows if (record := _from_row(row))]
    if len(records) < len(rows):
      logging.warning(
        "Skipped %d records of %s that are not of this version of jssl.",
        len(rows) - len(records),
        self._path,
      )
    return records

  def done(self, part: Part, **settings: Any) -> set[tuple[str, int, str]]:
    """Returns (features, step, dataset) of everything that has records.

    Records with another value of a field in `settings` do not count.
    """
    return {
      _key(record)
      for record in self.read()
      if record.part == part and settings.items() <= _settings(record).items()
    }

  def replace(self, records: Sequence[Record]) -> None:
    """Writes all records of one part in place of earlier ones."""
    first = records[0]
    kept = [
      record
      for record in self.read()
      if _key(record) != _key(first) or record.part != first.part
    ]
    text = "".join(f"{to_json(record)}\n" for record in (*kept, *records))
    files.write_text(self._path, text)


def _key(record: Record) -> tuple[str, int, str]:
  return record.features, record.step, record.dataset


def _settings(record: Record) -> dict[str, Any]:
  """Returns the fields of a record, and the settings of a missing one."""
  return vars(record) | getattr(record, "settings", {})


def write_events(workdir: str | os.PathLike, records: Iterable[Record]) -> None:
  """Writes TensorBoard scalars to `workdir/probe`, if tensorboardX exists."""
  tracker = Trackers(os.path.join(workdir, "probe"), {})
  for record in records:
    if scalars := _scalars(record):
      tracker.scalars(record.step, scalars)
  tracker.close()
