"""Results of the kernel study as JSON, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
  sweep_experiments,
)
from jssl.kernel_regime.study.spirals import Spirals
from jssl.report.charts import as_svg
from jssl.report.html import render
from jssl.report.tables import markdown_table

Result = Mapping[str, Any]

_ACCURACY_CAPTION = (
  "Test accuracy in % of an SVM and of ridge regression; C and the ridge "
  "weight are chosen within train. All see the same labelled images, “views "
  "added” their views as well. “Supervised-augmented” is the contrastive "
  "kernel with classes in place of images, so its cross-validation uses labels "
  "that it was fitted to. Points: of the classifier, or of the embedding. "
  "Alignment: of the kernel with that of the classes."
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

  def order(self) -> list[Features]:
    """Order of the kernels: that of `loss.name` is last."""
    return sorted(FEATURE_NAMES, key=lambda f: f == self.config.loss.name)

  def main(self) -> dict[str, Result]:
    """Results of the main experiments by name, in `order`."""
    order, ridge = self.order(), self.config.problem.alpha > 0
    experiments = main_experiments(self.config)
    experiments.sort(key=lambda e: (order.index(e.features), e.alpha or 0))
    return {
      FEATURE_NAMES[e.features]
      + (", no ridge" if ridge and e.alpha == 0 else ""): self.by_experiment[e]
      for e in experiments
    }

  def sweeps(self) -> dict[Axis, dict[Features, dict[float, Result]]]:
    """Results of each sweep, by features and value."""
    return {
      axis: {
        f: {x: self.by_experiment[e] for x, e in by_features[f].items()}
        for f in self.order()
        if f in by_features
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


def _accuracy(result: Result) -> float | None:
  return result["svm"] and result["svm"]["test_accuracy"]


def _percent(result: Result, classifier: str) -> str:
  found = result[classifier]
  return f"{100 * found['test_accuracy']:.1f}" if found else "-"


def log_line(result: Result) -> str:
  """Returns a result in one line."""
  numbers = dict(result["experiment"])
  name = FEATURE_NAMES[numbers.pop("features")]
  values = (f"{key}={x:g}" for key, x in numbers.items() if x is not None)
  outcome = (
    f"failed: {result['failure']}"
    if result["failure"]
    else f"SVM {_percent(result, 'svm')}%, ridge {_percent(result, 'ridge')}% "
    f"({result['seconds']:.1f} s)"
  )
  return f"{', '.join((name, *values))}: {outcome}"


def accuracy_table(results: Results) -> Table:
  """Table of the classifiers of the main experiments."""
  rows = [
    [
      name,
      "failed" if r["failure"] else _percent(r, "svm"),
      _percent(r, "ridge"),
      *(f"{r[c]['chosen']:g}" if r[c] else "-" for c in ("svm", "ridge")),
      "-" if r["failure"] else str(r["points"]),
      "-" if r["failure"] else f"{r['class_alignment']:.3f}",
    ]
    for name, r in results.main().items()
  ]
  return Table(
    ["kernel", "SVM", "ridge", "C", "ridge weight", "points", "alignment"],
    rows,
    _ACCURACY_CAPTION,
  )


# Heading, key of the measures, format.
_EMBEDDING_COLUMNS = (
  ("d_out", "d_out", "d"),
  ("rank", "rank", "d"),
  ("loss", "loss", ".4g"),
  ("relative gap", "gap", ".1e"),
  ("Tr(BK)", "trace_bk", ".4g"),
  ("k* within", "within", ".4f"),
  ("k* between", "between", ".1e"),
  ("alignment", "target_alignment", ".3f"),
)


def _embedding_table(results: Results) -> Table:
  rows = []
  for name, result in results.main().items():
    if measures := result["embedding"]:
      # Rounds losses of 1e-14 to 0; adding 0.0 turns -0 into 0.
      shown = {**measures, "loss": round(measures["loss"], 6) + 0.0}
      rows.append(
        [
          name,
          *(format(shown[key], form) for _, key, form in _EMBEDDING_COLUMNS),
        ]
      )
  headings = ["embedding", *(heading for heading, _, _ in _EMBEDDING_COLUMNS)]
  return Table(headings, rows, _EMBEDDING_CAPTION)


def _sweep_tables(results: Results) -> list[Table]:
  tables = []
  for axis, by_features in results.sweeps().items():
    rows = [
      [
        FEATURE_NAMES[features],
        *(
          f"{_percent(r, 'svm')} / {_percent(r, 'ridge')}"
          for r in found.values()
        ),
      ]
      for features, found in by_features.items()
    ]
    values = next(iter(by_features.values()))
    caption = f"Test accuracy in %, SVM / ridge, over {AXIS_NAMES[axis]}."
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


def draw_figures(results: Results) -> dict[str, Markup]:
  """Returns the figures as SVG by name, without empty ones."""
  config, grams = results.config, results.grams
  own = {f: experiment(f, config) for f in results.order()}
  main = {f: results.by_experiment[e] for f, e in own.items()}
  drawn = {"spirals": figures.spirals(results.spirals)}

  spectra = {
    f: r["embedding"]["spectrum"] for f, r in main.items() if r["embedding"]
  }
  if spectra:
    drawn["spectra"] = figures.spectra(spectra)

  matrices = {}
  shown: tuple[Features, ...] = ("raw", config.loss.name, "supervised")
  for features in shown:
    if main[features]["failure"]:
      continue
    embedding = evaluate.embed(grams, own[features], config)
    k, _, _ = evaluate.classifier_kernels(grams, own[features], embedding)
    if features == "non_contrastive":
      # The loss is invariant to a shift, which can dominate k*.
      k = k - k.mean(0) - k.mean(0)[:, None] + k.mean()
    matrices[FEATURE_NAMES[features]] = k
  if matrices:
    drawn["gram"] = figures.kernels(matrices, grams.labels, grams.class_names)

  curves = {
    AXIS_NAMES[axis]: {
      f: {x: _accuracy(r) for x, r in by_value.items()}
      for f, by_value in by_features.items()
    }
    for axis, by_features in results.sweeps().items()
  }
  if curves:
    baselines = {f: _accuracy(r) for f, r in main.items()}
    drawn["sweeps"] = figures.sweeps(curves, baselines)
  return {
    # The maps of the spirals are smooth; at 160 dpi the file is twice as large.
    name: as_svg(drawn[name], alt=alt, dpi=72 if name == "spirals" else 160)
    for name, alt in _ALT.items()
    if name in drawn
  }


def _page(results: Results) -> dict[str, Any]:
  """Contents that the Markdown and the HTML page share."""
  problem = results.config.problem
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
      "Accuracy": [accuracy_table(results)],
      "Embeddings": [_embedding_table(results)],
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
