"""Results of the kernel study as JSON, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from jssl.config.parse import to_dict
from jssl.kernel_regime.study import evaluate, figures
from jssl.kernel_regime.study.config import KernelStudy
from jssl.kernel_regime.study.dataset import GramMatrices
from jssl.kernel_regime.study.experiments import (
  AXIS_NAMES,
  FEATURE_NAMES,
  Axis,
  Experiment,
  Features,
  experiment,
  main_experiments,
  ordered_features,
  sweep_experiments,
)
from jssl.kernel_regime.study.spirals import Spirals
from jssl.kernel_regime.targets import centre_gram
from jssl.report.charts import as_svg
from jssl.report.html import render
from jssl.report.tables import markdown_table

Result = Mapping[str, Any]

_ACCURACY_CAPTION = (
  "Test accuracy of an SVM and of ridge regression; C and the ridge weight are "
  "chosen within train. All see the same labelled images, 'views added' their "
  "views as well. 'Supervised-augmented' is the contrastive kernel with "
  "classes in place of images, so its cross-validation uses labels that it was "
  "fitted to. Points: of the classifier, or of the embedding. Alignment: of "
  "the kernel with that of the classes."
)
_EMBEDDING_CAPTION = (
  "At the views that the embeddings were fitted to. Gap: loss minus its "
  "minimum for this dimension, over max(|minimum|, ||T||^2). Within, between: "
  "mean k* of two views of one image, and of different images (supervised: "
  "classes). Alignment: of k* with T. The non-contrastive embedding is "
  "centred, since its loss is shift invariant."
)
_SPIRALS_CAPTION = (
  "Area under the ROC curve of the better of two dimensions as a classifier of "
  "the arms; 0.5 is chance. No view reveals the arm."
)
_ALT = {
  "spectra": "Spectra of the induced kernels",
  "gram": "Kernels of the images, ordered by class",
  "sweeps": "Test accuracy of the sweeps",
  "spirals": "Two spirals, and maps of the plane",
}


class Results(NamedTuple):
  """All results of a study; `command` repeats it on `machine`."""

  command: str
  machine: str
  config: KernelStudy
  grams: GramMatrices
  by_experiment: Mapping[Experiment, Result]
  spirals: Sequence[Spirals]

  def main(self) -> dict[str, Result]:
    """Results of the main experiments by name."""
    main = main_experiments(self.config)
    return {name: self.by_experiment[e] for name, e in main.items()}

  def sweeps(self) -> dict[Axis, dict[Features, dict[float, Result]]]:
    """Results of each sweep, by features and value."""
    return {
      axis: {
        features: {x: self.by_experiment[e] for x, e in by_value.items()}
        for features, by_value in by_features.items()
      }
      for axis, by_features in sweep_experiments(self.config).items()
    }

  def seconds(self) -> dict[str, float]:
    """Durations by part."""
    experiments = sum(r["seconds"] for r in self.by_experiment.values())
    return {"gram": self.grams.seconds, "experiments": experiments}

  def failures(self) -> list[str]:
    """One line per failed experiment."""
    return [log_line(r) for r in self.by_experiment.values() if r["failure"]]


class Table(NamedTuple):
  """A table of text cells, the name of the row first, and its caption."""

  headings: Sequence[str]
  rows: Sequence[Sequence[str]]
  caption: str


def _number(result: Result, form: str, *keys: str) -> str:
  """Formats a nested number of a result; "-" if there is none."""
  found: Any = result
  for key in keys:
    found = found and found[key]
  return "-" if found is None else format(found, form)


def _svm(result: Result) -> float | None:
  return result["svm"] and result["svm"]["test_accuracy"]


def _percents(result: Result) -> list[str]:
  key = "test_accuracy"
  return [_number(result, ".1%", name, key) for name in ("svm", "ridge")]


def log_line(result: Result) -> str:
  """Returns a result in one line."""
  numbers = dict(result["experiment"])
  name = FEATURE_NAMES[numbers.pop("features")]
  values = (f"{key}={x:g}" for key, x in numbers.items() if x is not None)
  svm, ridge = _percents(result)
  outcome = (
    f"failed: {result['failure']}"
    if result["failure"]
    else f"SVM {svm}, ridge {ridge} ({result['seconds']:.1f} s)"
  )
  return f"{', '.join((name, *values))}: {outcome}"


# Heading, format, and keys of the number in a result.
_ACCURACY_COLUMNS = (
  ("SVM", ".1%", "svm", "test_accuracy"),
  ("ridge", ".1%", "ridge", "test_accuracy"),
  ("C", "g", "svm", "chosen"),
  ("ridge weight", "g", "ridge", "chosen"),
  ("points", "d", "points"),
  ("alignment", ".3f", "class_alignment"),
)
_EMBEDDING_COLUMNS = (
  ("d_out", "d", "embedding", "d_out"),
  ("rank", "d", "embedding", "rank"),
  ("loss", "z.4f", "embedding", "loss"),
  ("relative gap", ".1e", "embedding", "gap"),
  ("Tr(BK)", ".4g", "embedding", "trace_bk"),
  ("k* within", ".4f", "embedding", "within"),
  ("k* between", ".1e", "embedding", "between"),
  ("alignment", ".3f", "embedding", "target_alignment"),
)


def check(result: Result) -> None:
  """Raises KeyError, TypeError or ValueError if a result lacks numbers."""
  log_line(result)
  for _, form, *keys in (*_ACCURACY_COLUMNS, *_EMBEDDING_COLUMNS):
    _number(result, form, *keys)
  if result["embedding"]:
    np.asarray(result["embedding"]["spectrum"], float)


def _table(
  results: Mapping[str, Result],
  columns: Sequence[tuple[str, ...]],
  caption: str,
) -> Table:
  rows = [
    [
      f"{name} (failed)" if result["failure"] else name,
      *(_number(result, form, *keys) for _, form, *keys in columns),
    ]
    for name, result in results.items()
  ]
  return Table(["", *(heading for heading, *_ in columns)], rows, caption)


def _sweep_tables(results: Results) -> list[Table]:
  tables = []
  for axis, by_features in results.sweeps().items():
    rows = [
      [
        FEATURE_NAMES[features],
        *(" / ".join(_percents(result)) for result in by_value.values()),
      ]
      for features, by_value in by_features.items()
    ]
    values = next(iter(by_features.values()))
    caption = f"Test accuracy, SVM / ridge, over {AXIS_NAMES[axis]}."
    headings = [AXIS_NAMES[axis], *(f"{value:g}" for value in values)]
    tables.append(Table(headings, rows, caption))
  return tables


def _spirals_table(results: Results) -> Table:
  return Table(
    ["views", "kernel eigenfunctions", "embedding", "relative gap"],
    [
      [
        f"noise {toy.noise}",
        *(f"{max(auc):.2f}" for auc in (toy.raw_auc, toy.embedding_auc)),
        f"{toy.gap:.1e}",
      ]
      for toy in results.spirals
    ],
    _SPIRALS_CAPTION,
  )


def _matrices(results: Results) -> dict[str, Float[np.ndarray, "n n"]]:
  """Kernels of the images, raw, of `loss.name`, and supervised."""
  config, grams, matrices = results.config, results.grams, {}
  shown: tuple[Features, ...] = ("raw", config.loss.name, "supervised")
  for features in shown:
    own = experiment(features, config)
    if results.by_experiment[own]["failure"]:
      continue
    embedding = evaluate.embed(grams, own, config)
    k, _, _ = evaluate.classifier_kernels(grams, own, embedding)
    if features == "non_contrastive":
      # The loss is invariant to a shift, which can dominate k*.
      k = centre_gram(k)
    matrices[FEATURE_NAMES[features]] = k
  return matrices


def draw_figures(results: Results) -> dict[str, Markup]:
  """Returns the figures as SVG by name, without empty ones."""
  config, grams = results.config, results.grams
  main = {
    features: results.by_experiment[experiment(features, config)]
    for features in ordered_features(config)
  }
  accuracies = {features: _svm(r) for features, r in main.items()}
  spectra = {
    features: r["embedding"]["spectrum"]
    for features, r in main.items()
    if r["embedding"]
  }
  curves = {
    AXIS_NAMES[axis]: {
      features: {x: _svm(r) for x, r in by_value.items()}
      for features, by_value in by_features.items()
    }
    for axis, by_features in results.sweeps().items()
  }
  matrices = _matrices(results)
  drawn = {
    "spectra": spectra and figures.spectra(spectra),
    "gram": matrices
    and figures.kernels(matrices, grams.labels, grams.class_names),
    "sweeps": curves and figures.sweeps(curves, accuracies),
    "spirals": figures.spirals(results.spirals),
  }
  return {
    # The maps of the spirals are smooth; at 160 dpi the file is twice as large.
    name: as_svg(figure, alt=_ALT[name], dpi=72 if name == "spirals" else 160)
    for name, figure in drawn.items()
    if figure
  }


def _page(results: Results) -> dict[str, Any]:
  """Contents that the Markdown and the HTML page share."""
  problem, main = results.config.problem, results.main()
  embedded = {name: r for name, r in main.items() if r["embedding"]}
  return {
    "title": f"The kernel regime: {results.config.data.name}",
    "facts": {
      "data set": results.config.data.name,
      "kernel": results.grams.kernel,
      "images x views": f"{problem.images} x {problem.views}",
      "test images": f"{problem.test_images:,}",
      "seed": str(problem.seed),
      "seconds": f"{sum(results.seconds().values()):,.0f}",
    },
    "tables": {
      "Accuracy": [_table(main, _ACCURACY_COLUMNS, _ACCURACY_CAPTION)],
      "Embeddings": [_table(embedded, _EMBEDDING_COLUMNS, _EMBEDDING_CAPTION)],
      "Sweeps": _sweep_tables(results),
      "Two spirals": [_spirals_table(results)],
    },
    "failures": results.failures(),
  }


def to_json(results: Results) -> dict[str, Any]:
  """Returns the contents of kernels.json."""
  spirals = ("noise", "raw_auc", "embedding_auc", "gap")
  return {
    "command": results.command,
    "machine": results.machine,
    "config": to_dict(results.config),
    "kernel": results.grams.kernel,
    "class_names": results.grams.class_names,
    "seconds": results.seconds(),
    "main": [*results.main().values()],
    "sweeps": {
      axis: [
        {"value": value, **result}
        for by_value in by_features.values()
        for value, result in by_value.items()
      ]
      for axis, by_features in results.sweeps().items()
    },
    "spirals": [
      {key: getattr(toy, key) for key in spirals} for toy in results.spirals
    ],
  }


def to_markdown(results: Results) -> str:
  """Returns the tables as a Markdown page."""
  page = _page(results)
  facts = {**page["facts"], "machine": results.machine}
  parts = [
    f"# {page['title']}\n",
    f"    {results.command}\n",
    "".join(f"- {name}: {value}\n" for name, value in facts.items()),
  ]
  for title, tables in page["tables"].items():
    parts.append(f"## {title}\n")
    for headings, rows, caption in tables:
      parts += [f"{caption}\n", markdown_table(headings, rows)]
  if page["failures"]:
    lines = (f"- {line}\n" for line in page["failures"])
    parts += ["## Failures\n", "".join(lines)]
  return "\n".join(parts)


def to_html(results: Results, figures: Mapping[str, Markup]) -> str:
  """Returns a self-contained HTML page of tables and figures."""
  return render(
    "jssl.kernel_regime",
    "study.html.j2",
    **_page(results),
    figures=figures,
    config=to_dict(results.config),
    footer=f"{results.machine}; {results.command}",
  )
