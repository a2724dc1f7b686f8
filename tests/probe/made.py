"""Made-up records of a probe."""

from jssl.probe.record_file import to_json
from jssl.probe.records import (
  ClassesRecord,
  ConcentrationRecord,
  DenseRecord,
  DiagnosticsRecord,
  ProbeRecord,
  RetrievalRecord,
  RobustnessRecord,
  SpectrumRecord,
)

DATASET = "cluttered_digits"
_SAMPLE = {"images_requested": 600, "images": 600, "views": 8}


def probe_record(features="backbone", step=10, probe="linear", **changes):
  fraction = changes.get("label_fraction", 1.0)
  return ProbeRecord(
    **{
      "dataset": DATASET,
      "features": features,
      "step": step,
      "probe": probe,
      "label_fraction": fraction,
      "label_fraction_used": fraction,
      "test_accuracy": 0.5,
      "test_accuracy_std": 0.01,
      "validation_accuracy": 0.5,
      "seeds": 3,
      "chosen": {},
      "seconds": 1.0,
      "time": 1e9,
      **changes,
    }
  )


def classes_record(features="backbone", step=10, **changes):
  return ClassesRecord(
    **{
      "dataset": DATASET,
      "features": features,
      "step": step,
      "probe": "linear",
      "vectors": "pooled",
      "seeds": 3,
      "balanced_accuracy": 0.5,
      "balanced_accuracy_std": 0.01,
      "calibration_error": 0.04,
      "calibration_error_std": 0.002,
      "names": ["cat", "dog", "owl"],
      "images": [10, 20, 0],
      "accuracy": [0.8, 0.2, 0.0],
      "confusion": [[24, 2, 4], [45, 12, 3], [0, 0, 0]],
      "confused": [],
      **changes,
    }
  )


def retrieval_record(features="backbone", step=10, **changes):
  return RetrievalRecord(
    **{
      "dataset": DATASET,
      "features": features,
      "step": step,
      "vectors": "pooled",
      "neighbours": 100,
      "mean_average_precision": 0.4,
      "balanced_average_precision": 0.375,
      "names": ["cat", "dog", "owl"],
      "images": [20, 10, 0],
      "average_precision": [0.45, 0.3, 0.0],
      **changes,
    }
  )


def robustness_record(features="backbone", step=10, **changes):
  return RobustnessRecord(
    **{
      "dataset": DATASET,
      "features": features,
      "step": step,
      "vectors": "pooled",
      "seeds": 3,
      "images_requested": 500,
      "images": 400,
      "image_size_px": 32,
      "clean_accuracy": 0.75,
      "clean_accuracy_std": 0.01,
      "corrupted_accuracy": 0.5,
      "corrupted_accuracy_std": 0.02,
      "accuracy": {"fog": [0.7, 0.5, 0.3, 0.2, 0.1], "zoom_blur": 5 * [0.64]},
      "seconds": 1.0,
      "time": 1e9,
      **changes,
    }
  )


def dense_record(features="backbone", step=10, probe="linear", **changes):
  return DenseRecord(
    **{
      "dataset": DATASET,
      "features": features,
      "step": step,
      "probe": probe,
      "mean_iou": 0.25,
      "mean_iou_std": 0.01,
      "pixel_accuracy": 0.9,
      "pixel_accuracy_std": 0.0,
      "validation_iou": 0.25,
      "seeds": 3,
      "images_requested": 500,
      "images": 500,
      "test_images": 500,
      "patches": 64,
      "chosen": {"l2": [0.1, 0.1, 1.0]},
      "seconds": 1.0,
      "time": 1e9,
      **changes,
    }
  )


def spectrum_record(step, auc, *, features="backbone", **changes):
  return SpectrumRecord(
    **{
      "dataset": DATASET,
      "features": features,
      "step": step,
      "singular_values": [4.0, 2.0, 1.0],
      "deviation": [],
      "collapse_auc": auc,
      **changes,
    }
  )


def diagnostics_record(
  step,
  at,
  *,
  features="backbone",
  missing=(),
  dataset=DATASET,
  values=None,
  **changes,
):
  numbers = {
    "collapse_auc": 0.8,
    "rank_me": 12.3,
    "lidar": 5.0,
    "alpha_req": 1.25,
    "alignment": 0.5 - step / 100,
    "uniformity": -1.0 - step / 100,
    "image_entropy_given_features": 2.5,
    "nearest_mean_error": 0.25,
    "bound/outside": 1.5,
    "bound/rho": 2.0,
    **(values or {}),
  }
  return DiagnosticsRecord(
    dataset=dataset,
    features=features,
    step=step,
    at=at,
    num_classes=60,
    values={k: v for k, v in numbers.items() if k not in missing},
    curves={
      "singular_values": [4.0, 2.0, 1.0],
      "epsilon": [0.0, 1.0, 2.0],
      "divergence": [1.0, 0.5, 0.0],
    },
    not_measured={name: "too few <images>" for name in missing},
    **_SAMPLE,
    **changes,
  )


CONCENTRATION = ConcentrationRecord(
  dataset=DATASET,
  features="views",
  step=0,
  num_classes=60,
  deltas=[1.0, 2.0],
  one_minus_sigma=[0.75, 0.0],
  lower_bound=[0.5, 0.0],
  **_SAMPLE,
)


def write_records(workdir, records):
  text = "".join(f"{to_json(record)}\n" for record in records)
  (workdir / "probe.jsonl").write_text(text)
