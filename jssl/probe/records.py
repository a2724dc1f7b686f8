"""Records of the probe, the schema of `probe.jsonl`.

The probe writes them; the report and the studies read them.
"""

import abc
import dataclasses
from typing import Any, Literal, get_args

# Records of one part are measured together and replaced together.
Part = Literal["spectrum", "probe", "robustness", "dense", "diagnostics"]
PARTS: tuple[Part, ...] = get_args(Part)

BASELINES = {"pixels": "raw pixels", "random": "random backbone"}
PROBES = {
  **{"linear": "linear", "mlp": "MLP", "knn": "kNN"},
  # The head of a supervised run, which no probe fits.
  "classifier": "classifier",
}


def _percent(share: float) -> str:
  return f"{100 * share:.1f}%"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(abc.ABC):
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

  @property
  @abc.abstractmethod
  def summary(self) -> str:
    """The result in a few words, for the log."""

  @property
  def scalars(self) -> dict[str, float]:
    """Numbers to draw over steps, by name."""
    return {}

  @property
  def _path(self) -> str:
    """Part of the names of scalars."""
    return f"{self.dataset}/{self.features}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeRecord(Record):
  """Accuracy of one classifier, in [0, 1], means over seeds.

  `label_fraction_used` is larger than the `label_fraction` asked for where
  classes have few images: at least two images of each class are labelled.
  `vectors` is `probe.features`, with the number of blocks if several.
  `probe="classifier"` is the head of a supervised run. No images were held out
  of its training, so its `validation_accuracy` is None.
  `chosen` has hyper-parameters by name, one value per seed. `seconds` is the
  duration of all fits, and `time` the seconds since 1970.
  """

  part: Part = "probe"
  probe: str
  label_fraction: float
  label_fraction_used: float
  test_accuracy: float
  test_accuracy_std: float
  validation_accuracy: float | None
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

  @property
  def summary(self) -> str:
    return f"{self.name} {_percent(self.test_accuracy)}"

  @property
  def scalars(self) -> dict[str, float]:
    return {f"probe/{self._path}/{self.name}": self.test_accuracy}


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

  @property
  def summary(self) -> str:
    balanced = _percent(self.balanced_accuracy)
    return f"{PROBES[self.probe]} class-balanced {balanced}"

  @property
  def scalars(self) -> dict[str, float]:
    name = f"probe/{self._path}/{PROBES[self.probe]}"
    return {
      f"{name}/class-balanced accuracy": self.balanced_accuracy,
      f"{name}/calibration error": self.calibration_error,
    }


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

  @property
  def summary(self) -> str:
    return f"{self.name} {_percent(self.mean_average_precision)}"

  @property
  def scalars(self) -> dict[str, float]:
    return {f"retrieval/{self._path}/{self.name}": self.mean_average_precision}


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

  @property
  def summary(self) -> str:
    return (
      f"linear {_percent(self.corrupted_accuracy)} on corrupted images, "
      f"{_percent(self.clean_accuracy)} on clean ones"
    )

  @property
  def scalars(self) -> dict[str, float]:
    return {f"robustness/{self._path}/linear": self.corrupted_accuracy}


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

  @property
  def summary(self) -> str:
    return f"{PROBES[self.probe]} mean IoU {_percent(self.mean_iou)}"

  @property
  def scalars(self) -> dict[str, float]:
    name = f"dense/{self._path}/{PROBES[self.probe]}"
    return {
      f"{name}/mean IoU": self.mean_iou,
      f"{name}/pixel accuracy": self.pixel_accuracy,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrumRecord(Record):
  """Spectrum of the centred training features; lists are descending."""

  part: Part = "spectrum"
  singular_values: list[float]
  deviation: list[float]
  collapse_auc: float

  @property
  def summary(self) -> str:
    return f"collapse AUC {self.collapse_auc:.3f}"


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

  @property
  def summary(self) -> str:
    missing = len(self.not_measured)
    suffix = f" ({missing} not measured)" if missing else ""
    return f"{len(self.values)} diagnostics of {self.at}{suffix}"

  @property
  def scalars(self) -> dict[str, float]:
    name = f"diagnostics/{self._path}/{self.at}"
    return {f"{name}/{key}": float(x) for key, x in self.values.items()}


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

  @property
  def summary(self) -> str:
    return "concentration of the classes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotMeasuredRecord(Record):
  """A part that could not be measured, and why.

  `settings` has the fields of the part's records that depend on the config.
  """

  reason: str
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def summary(self) -> str:
    return f"{self.part} not measured: {self.reason}"
