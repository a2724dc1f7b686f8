"""What the kernel study found, as numbers, as Markdown and as a page."""

import importlib.resources
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from jssl import __version__
from jssl.config.parse import to_dict
from jssl.kernel_regime.study import cases as cases_lib
from jssl.kernel_regime.study import figures
from jssl.kernel_regime.study.cases import Axis, Case, Features
from jssl.kernel_regime.study.points import Grams
from jssl.kernel_regime.study.setting import Setting
from jssl.kernel_regime.study.spirals import Toy
from jssl.report import elements
from jssl.report.charts import as_svg

Row = Mapping[str, Any]

NAMES: Mapping[Features, str] = {
  "raw": "raw kernel",
  "raw_augmented": "raw kernel, views added",
  "supervised": "supervised-augmented",
  "contrastive": "contrastive",
  "non_contrastive": "non-contrastive",
}
_AXES: Mapping[Axis, str] = {
  "views": "views of an image",
  "labels": "labelled images",
  "beta": "beta, weight of the invariance",
  "alpha": "alpha, share of the one that leaves nothing",
}
_MAIN = ("SVM", "ridge", "C", "ridge weight", "points", "class alignment")
_EMBEDDING = (
  "d_out",
  "rank",
  "loss",
  "gap, relative",
  "Tr(BK)",
  "k* within",
  "k* between",
  "alignment",
)
_TOY = ("kernel's eigenfunctions", "embedding", "gap, relative")

_ABOUT_MAIN = (
  "Test accuracy in %, of an SVM and of ridge regression on classes; C and the "
  "ridge were chosen within train. All see the labels of the same images, as "
  "evaluation sees them; “views added” sees their views as well. “Supervised” "
  "is the contrastive kernel with classes for images, so that its "
  "cross-validation is of labels that it has seen. Points: that the "
  "classifier, or the embedding, was given. Class alignment: of the kernel of "
  "the classifier's points with that of their classes."
)
_ABOUT_EMBEDDING = (
  "At the views that they were made for. Gap: of the loss to the least of any "
  "embedding of as many dimensions, relative to the larger of that and "
  "||T||^2; without a ridge it is 0 up to rounding, with one it is what the "
  "ridge costs. Within, between: mean k* of two views of one image, and of two "
  "images (supervised: classes); alignment: of k* with T. The non-contrastive "
  "loss sees no shift, so here its mean is taken off."
)
_ABOUT_TOY = (
  "How well the better of two dimensions tells the arms apart, which no view "
  "says: area under the ROC curve, 0.5 being chance."
)


Drawn = Literal["spectra", "gram", "sweeps", "spirals"]


class Drawing(NamedTuple):
  """A figure of the page.

  Attributes:
    svg: the figure.
    caption: plain text.
  """

  svg: str
  caption: str


def _drawing(
  figure: Figure, alt: str, caption: str, *, dpi: int = 160
) -> Drawing:
  return Drawing(as_svg(figure, alt=alt, dpi=dpi), caption)


class Results(NamedTuple):
  """All that the study found.

  Attributes:
    command: that makes it again.
    machine: cores, system and JAX.
    config: of the study,
    setting: the same as objects.
    grams: the kernel.
    rows: by case.
    toys: a spiral for each kind of noise.
  """

  command: str
  machine: str
  config: Setting
  setting: Setting
  grams: Grams
  rows: Mapping[Case, Row]
  toys: Sequence[Toy]

  def order(self) -> tuple[Features, ...]:
    """Returns the order of rows, the one of `loss.name` last."""
    drawn = self.setting.loss.name
    return tuple(sorted(NAMES, key=lambda features: features == drawn))

  def main(self) -> dict[str, Row]:
    """Returns the rows of the main setting by name, as `order` says."""
    order = self.order()
    cases = cases_lib.main(self.setting.kernels, self.setting.loss)
    cases.sort(key=lambda case: (order.index(case.features), case.alpha or 0))
    return {self.name(case): self.rows[case] for case in cases}

  def name(self, case: Case) -> str:
    """Returns what a case of the main setting is called."""
    without = case.alpha == 0 and self.setting.kernels.alpha > 0
    return NAMES[case.features] + (", no ridge" if without else "")

  def own(self) -> dict[Features, Row]:
    """Returns the rows of the main setting, each of the features once."""
    kernels, loss = self.setting.kernels, self.setting.loss
    return {
      features: self.rows[cases_lib.case(features, kernels, loss)]
      for features in self.order()
    }

  def sweeps(self) -> dict[Axis, dict[float, dict[Features, Row]]]:
    """Returns the rows of each sweep, by value and by features."""
    swept = cases_lib.swept(self.setting.kernels, self.setting.loss)
    return {
      axis: {
        value: {case.features: self.rows[case] for case in cases}
        for value, cases in by_value.items()
      }
      for axis, by_value in swept.items()
      if by_value
    }


def _accuracy(row: Row, classifier: str) -> float | None:
  found = row[classifier]
  return None if found is None else found["test_accuracy"]


def _percent(row: Row, classifier: str) -> str:
  accuracy = _accuracy(row, classifier)
  return "-" if accuracy is None else f"{100 * accuracy:.1f}"


def _named(row: Row) -> str:
  changed = (
    f"{name}={value:g}"
    for name, value in row["case"].items()
    if name != "features" and value is not None
  )
  return f"{NAMES[row['case']['features']]}, {', '.join(changed)}"


def _not_done(rows: Iterable[Row]) -> list[str]:
  """Returns why cases weren't done, a line each."""
  return [
    f"{_named(row)}: not done: {row['not_done']}"
    for row in rows
    if row.get("not_done") is not None
  ]


def line(row: Row) -> str:
  """Returns one line for a row that was just tried."""
  for reason in _not_done([row]):
    return reason
  return (
    f"{_named(row)}: SVM {_percent(row, 'svm')} %, ridge "
    f"{_percent(row, 'ridge')} %, {row['seconds']:.1f} s"
  )


def _main_cells(row: Row) -> list[str]:
  if row.get("not_done") is not None:
    return ["not done", *["-"] * (len(_MAIN) - 1)]
  chosen = [
    "-" if row[name] is None else f"{row[name]['chosen']:g}"
    for name in ("svm", "ridge")
  ]
  return [
    _percent(row, "svm"),
    _percent(row, "ridge"),
    *chosen,
    f"{row['points']}",
    f"{row['class_alignment']:.3f}",
  ]


def _small(value: float) -> str:
  return f"{value:.1e}" if value else "0"


def _embedding_cells(embedding: Row) -> list[str]:
  return [
    f"{embedding['d_out']}",
    f"{embedding['rank']}",
    # A negative zero would be rounding that shows.
    f"{round(embedding['loss'], 6) + 0.0:.4g}",
    _small(embedding["gap"]),
    f"{embedding['trace_bk']:.4g}",
    f"{embedding['within']:.4f}",
    _small(embedding["between"]),
    f"{embedding['target_alignment']:.3f}",
  ]


class _Table(NamedTuple):
  title: str
  headings: Sequence[str]
  rows: Mapping[str, Sequence[str]]
  about: str
  not_done: Sequence[str] = ()

  def markdown(self) -> str:
    lines = [
      f"| {' | '.join(['', *self.headings])} |",
      "|---" + "|---:" * len(self.headings) + "|",
      *(f"| {name} | {' | '.join(row)} |" for name, row in self.rows.items()),
    ]
    if self.not_done:
      lines += ["", *(f"- {reason}" for reason in self.not_done)]
    return "\n".join(lines) + "\n"

  def html(self) -> str:
    table = elements.scores(self.title, self.headings, self.rows)
    return elements.figure(table, escape(self.about)) + "".join(
      elements.missing(escape(reason)) for reason in self.not_done
    )


def _main(results: Results) -> _Table:
  found = results.main()
  rows = {name: _main_cells(row) for name, row in found.items()}
  return _Table("kernel", _MAIN, rows, _ABOUT_MAIN, _not_done(found.values()))


def _embeddings(results: Results) -> _Table:
  rows = {
    name: _embedding_cells(row["embedding"])
    for name, row in results.main().items()
    if row["embedding"]
  }
  return _Table("embedding", _EMBEDDING, rows, _ABOUT_EMBEDDING)


def _sweep(results: Results, axis: Axis) -> _Table:
  by_value = results.sweeps()[axis]
  rows = {}
  for features in results.order():
    if any(features in found for found in by_value.values()):
      rows[NAMES[features]] = [
        f"{_percent(by_value[value][features], 'svm')} / "
        f"{_percent(by_value[value][features], 'ridge')}"
        for value in by_value
      ]
  about = f"Test accuracy in %, SVM / ridge, over {_AXES[axis]}."
  every = [row for found in by_value.values() for row in found.values()]
  headings = [f"{value:g}" for value in by_value]
  return _Table(axis, headings, rows, about, _not_done(every))


def _toys(results: Results) -> _Table:
  rows = {
    f"noise {toy.noise}": [
      f"{max(toy.raw_auc):.2f}",
      f"{max(toy.embedding_auc):.2f}",
      _small(toy.gap),
    ]
    for toy in results.toys
  }
  return _Table("spirals", _TOY, rows, _ABOUT_TOY)


def main_table(results: Results) -> str:
  """Returns the table of the main setting, as Markdown."""
  return _main(results).markdown()


def numbers(results: Results) -> dict[str, Any]:
  """Returns everything, as it stands in kernels.json."""
  found = results.grams
  return {
    "command": results.command,
    "machine": results.machine,
    "config": to_dict(results.config),
    "kernel": found.kernel,
    "class_names": found.class_names,
    "seed": results.setting.kernels.seed,
    "seconds": {
      "gram": found.seconds,
      "cases": sum(row["seconds"] for row in results.rows.values()),
    },
    "main": [*results.main().values()],
    "sweeps": {
      axis: [
        {"value": value, **row}
        for value, rows in by_value.items()
        for row in rows.values()
      ]
      for axis, by_value in results.sweeps().items()
    },
    "spirals": [
      {
        "noise": toy.noise,
        "raw_auc": toy.raw_auc,
        "embedding_auc": toy.embedding_auc,
        "gap": toy.gap,
      }
      for toy in results.toys
    ],
  }


def _facts(results: Results) -> dict[str, str]:
  kernels, found = results.setting.kernels, results.grams
  seconds = found.seconds + sum(row["seconds"] for row in results.rows.values())
  return {
    "data set": results.setting.data.name,
    "kernel": found.kernel,
    "images x views": f"{kernels.images} x {kernels.views}",
    "test images": f"{kernels.test_images:,}",
    "seed": f"{kernels.seed}",
    "seconds": f"{seconds:,.0f}",
  }


def _title(results: Results) -> str:
  return f"The kernel regime: {results.setting.data.name}"


def markdown(results: Results) -> str:
  """Returns the tables, and what they were measured on."""
  facts = {**_facts(results), "machine": results.machine}
  parts = [
    f"# {_title(results)}\n",
    f"    {results.command}\n",
    "".join(f"- {name}: {value}\n" for name, value in facts.items()),
  ]
  tables = {
    "What the kernels are worth": _main(results),
    "What the embeddings are like": _embeddings(results),
    **{f"Over {_AXES[a]}": _sweep(results, a) for a in results.sweeps()},
    "Two spirals": _toys(results),
  }
  for title, table in tables.items():
    parts += [f"## {title}\n", f"{table.about}\n", table.markdown()]
  return "\n".join(parts)


def _panel(results: Results, axis: Axis) -> figures.Panel:
  by_value = results.sweeps()[axis]
  swept = [
    f for f in results.order() if any(f in rows for rows in by_value.values())
  ]
  baselines = {
    features: accuracy
    for features, row in results.own().items()
    if features not in swept and (accuracy := _accuracy(row, "svm")) is not None
  }
  return figures.Panel(
    _AXES[axis],
    [*by_value],
    {
      features: [_accuracy(rows[features], "svm") for rows in by_value.values()]
      for features in swept
    },
    baselines,
  )


def _kernels(results: Results) -> Drawing | None:
  found, of = results.grams, results.setting
  shown: tuple[Features, ...] = ("raw", of.loss.name, "supervised")
  pictures = []
  for features in shown:
    case = cases_lib.case(features, of.kernels, of.loss)
    if results.rows[case].get("not_done") is not None:
      continue
    embedded = (
      None if features == "raw" else cases_lib.embed(found, case, of.kernels)
    )
    k, _, _ = cases_lib.on_images(found, case, embedded)
    if features == "non_contrastive":
      # The loss doesn't see a shift, which can be most of k*.
      k = k - k.mean(0) - k.mean(0)[:, None] + k.mean()
    pictures.append(figures.Picture(NAMES[features], k))
  if not pictures:
    return None
  return _drawing(
    figures.kernels(pictures, found.labels, found.class_names),
    "Kernels of the images, ordered by class",
    "The kernel of the images themselves, which the embedding never saw: it "
    "was made for views of them. Blocks along the diagonal are classes that "
    "a kernel keeps together. “Supervised” was told the classes of the views.",
  )


def _spectra(results: Results) -> Drawing | None:
  curves = {
    features: row["embedding"]["spectrum"]
    for features, row in results.own().items()
    if row["embedding"]
  }
  if not curves:
    return None
  return _drawing(
    figures.spectra(curves, NAMES),
    "Spectra of the induced kernels",
    "A curve that falls slowly uses many directions.",
  )


def _sweeps(results: Results) -> Drawing | None:
  panels = [_panel(results, axis) for axis in results.sweeps()]
  if not panels:
    return None
  return _drawing(
    figures.sweeps(panels, NAMES),
    "Test accuracy over what the sweeps change",
    "Of the SVM. What a sweep doesn't change is dashed. The other numbers are "
    "those of the main setting.",
  )


def _spirals(results: Results) -> Drawing:
  return _drawing(
    figures.spirals(results.toys),
    "Two spirals, and maps of the plane",
    "Left: leading eigenfunctions of the kernel. Right: dimensions of the "
    "contrastive closed form, of all optima the one of least Tr(BK). Points "
    "are views, black on one arm and white on the other. Red and blue are "
    "signs. Views along an arm tie it together; views in all directions "
    "say less of it.",
    # Eight smooth maps: with more pixels the file is twice as large.
    dpi=72,
  )


_MISSING: Mapping[Drawn, str] = {
  "gram": "None of the kernels could be made.",
  "spectra": "None of the embeddings could be made.",
  "sweeps": "The config sweeps over nothing (kernels.sweep_*).",
}


def drawings(results: Results) -> dict[Drawn, Drawing]:
  """Returns the figures by name, less those that there is nothing for."""
  drawn: dict[Drawn, Drawing | None] = {
    "spectra": _spectra(results),
    "gram": _kernels(results),
    "sweeps": _sweeps(results),
    "spirals": _spirals(results),
  }
  return {name: drawing for name, drawing in drawn.items() if drawing}


def html(results: Results, drawn: Mapping[Drawn, Drawing]) -> str:
  """Returns the page: tables and figures, everything in one file."""

  def shown(name: Drawn) -> str:
    if name not in drawn:
      return elements.missing(_MISSING[name])
    return elements.figure(drawn[name].svg, escape(drawn[name].caption))

  sections = {
    "What the kernels are worth": _main(results).html(),
    "What the embeddings are like": (
      _embeddings(results).html() + shown("spectra")
    ),
    "The kernels as pictures": shown("gram"),
    "What it depends on": shown("sweeps")
    + "".join(_sweep(results, axis).html() for axis in results.sweeps()),
    "Two spirals": shown("spirals") + _toys(results).html(),
  }
  body = "\n".join(elements.section(*section) for section in sections.items())
  config = escape(json.dumps(to_dict(results.config), indent=2))
  body += (
    "\n<section><details><summary><h2>Config</h2></summary>"
    f"<pre>{config}</pre></details></section>"
  )
  page = importlib.resources.files("jssl.report") / "template.html"
  return string.Template(page.read_text()).substitute(
    title=escape(_title(results)),
    summary=elements.facts(_facts(results)),
    sections=body,
    footer=escape(f"jssl {__version__}, {results.machine}; {results.command}"),
  )
