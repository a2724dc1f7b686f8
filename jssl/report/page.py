"""The page: HTML around tables and figures, everything in one file."""

import importlib.resources
import json
import string
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from jssl import __version__
from jssl.config.parse import to_dict
from jssl.report import diagnostics, elements, figures, samples, table
from jssl.report.read import Life, ProbeLife, Run

_IMAGES, _VIEWS = 8, 4
_MAP_POINTS = 2000


def _probed(run: Run) -> tuple[str, int | None]:
  """Returns the set and the step of the checkpoint that figures are about."""
  sets = run.datasets or [s.dataset for s in run.spectra]
  dataset = sets[0] if sets else run.config.data.name
  return dataset, run.step(dataset)


def _lead(run: Run) -> str:
  """Says in one sentence what the run is worth."""
  if not run.datasets:
    return ""
  pixels, random, pretrained = (
    row.scores[0] for row in table.rows(run, run.datasets[0])
  )
  if pixels is None or random is None or pretrained is None:
    return ""

  def over(baseline: table.Score) -> str:
    gain = 100 * (pretrained.test_accuracy - baseline.test_accuracy)
    return f"{abs(gain):.1f} points {'above' if gain >= 0 else 'below'}"

  return (
    f'<p class="lead">A linear probe on the pretrained features is right on '
    f"<strong>{100 * pretrained.test_accuracy:.1f} %</strong> of the test "
    f"images of {escape(pretrained.dataset)}: {over(pixels)} raw pixels, "
    f"{over(random)} the same backbone with random weights.</p>"
  )


def _summary(run: Run) -> str:
  config, metrics = run.config, run.metrics
  names = to_dict(config)
  total = config.train.steps
  facts = {
    "data set": config.data.name,
    "objective": names["objective"]["name"],
    "model": names["model"]["name"],
    "steps done": f"{run.steps_done:,} of {total:,}",
  }
  if metrics:
    # The first rows have the compilation in them.
    speed = np.nanmedian(metrics["images_per_second"])
    facts["images/s, median"] = f"{speed:,.0f}"
    facts["training seconds"] = f"{run.seconds:,.0f}"
  return _lead(run) + elements.facts(facts)


def _table(run: Run, dataset: str) -> str:
  return elements.scores(
    dataset,
    table.HEADINGS,
    {
      row.name: [*map(table.cell, row.scores)]
      for row in table.rows(run, dataset)
    },
  )


def _unmeasured(run: Run) -> str:
  lines = [
    f"<li>{escape(u.dataset)}, {escape(u.features)}, step {u.step:,}: no "
    f"{escape(u.measure)}: {escape(u.not_measured)}</li>"
    for u in run.unmeasured
  ]
  return f"<p>Not measured:</p><ul>{''.join(lines)}</ul>" if lines else ""


def _scores(run: Run) -> str:
  if not run.datasets:
    command = escape(f"python -m jssl.probe --workdir={run.workdir}")
    return _unmeasured(run) or elements.missing(
      f"No probe has read this run yet; <code>{command}</code> does."
    )
  return elements.figure(
    "".join(_table(run, dataset) for dataset in run.datasets),
    "Test accuracy in percent, mean ± standard deviation over seeds. The last "
    "two columns are linear probes that see the labels of so many training "
    "images. Hyper-parameters were chosen on images held out of train.",
  ) + _unmeasured(run)


def _accuracy(run: Run) -> str:
  dataset, step = _probed(run)
  scores = [
    s for s in run.scores if s.dataset == dataset and s.label_fraction == 1
  ]
  if step is None or not scores:
    return elements.missing("No probe has read a checkpoint yet.")
  return elements.plot(
    figures.accuracy(scores),
    "Test accuracy over steps",
    f"Test accuracy on {dataset} at each probed checkpoint, the band being one "
    "standard deviation over seeds. Curves that rise and level off well above "
    "the two baselines are good; one that falls while the loss still falls "
    "says that the features are being spent on the objective.",
  )


def _curves(run: Run) -> str:
  if not run.metrics:
    return elements.missing("The training has not logged a step yet.")
  return elements.plot(
    figures.curves(run.metrics),
    "Metrics of the training over steps",
    "What the training logged, each point the mean since the one before "
    "(alignment, deviation and participation ratio: of that step's batch). A "
    "loss that falls smoothly and a gradient norm that stays bounded are good. "
    "The first images/s has the compilation in it.",
  )


def _views(run: Run) -> str:
  try:
    images, views = samples.augmented(
      run.config, images=_IMAGES, num_views=_VIEWS
    )
  except (FileNotFoundError, ValueError, TypeError) as error:
    return elements.missing(f"The views can't be drawn: {escape(str(error))}")
  rows = "".join(
    f'<span>{name}</span><img src="{samples.data_uri(pixels)}" alt="{alt}">'
    for name, pixels, alt in (
      ("original", images[None], f"{_IMAGES} images of the training set"),
      ("views", views, f"{_VIEWS} random views of each of these images"),
    )
  )
  return elements.figure(
    f'<div class="views">{rows}</div>',
    "Images of the training set and below each its random views, made by the "
    "augmentation and the keys of this run. Views should differ as much as "
    "they can while you still see what the image shows.",
  )


def _spectrum(run: Run) -> str:
  dataset, step = _probed(run)
  spectra = [s for s in run.spectra if s.dataset == dataset]
  if step is None or not spectra:
    return elements.missing("No probe has measured a spectrum yet.")
  return elements.plot(
    figures.spectrum(spectra, step),
    "Singular values, and collapse AUC over steps",
    f"Left: singular values of the centred training features at step {step:,}. "
    "A curve that falls slowly uses many directions; one that drops has "
    "collapsed onto few. Dotted: deviations of single dimensions, likewise; "
    "where they fall more slowly, dimensions repeat each other. Right: the "
    "area under the cumulative sum of singular values, from "
    "(d + 1) / 2d, where all directions vary alike, to 1, where only one does; "
    "lower is less collapsed.",
  )


def _map(run: Run) -> str:
  dataset, step = _probed(run)
  found = step is not None and samples.kept_features(
    run, dataset, step=step, limit=_MAP_POINTS, classes=figures.MAX_CLASSES
  )
  if not found:
    return elements.missing("No probe has kept test features in this workdir.")
  if not np.ptp(found.h, axis=0).any():
    return elements.missing(
      "All test features are the same: they have collapsed."
    )
  most = figures.MAX_CLASSES
  some = f"the first {most} of " if len(found.class_names) > most else ""
  return elements.plot(
    figures.scatter(samples.map_2d(found.h), found.labels, found.class_names),
    "Test features in the plane, coloured by class",
    f"{len(found.h):,} test features of {dataset} at step {step:,}, laid out "
    "by t-SNE, which never sees the labels that colour them. Shown are "
    f"{some}{len(found.class_names)} classes. Those that lie apart are good; "
    "distances between far groups mean nothing.",
  )


def _config(config: dict[str, Any]) -> str:
  alone = {k: v for k, v in config.items() if not isinstance(v, dict)}
  sections = {"run": alone}
  sections |= {k: v for k, v in config.items() if k not in alone}
  blocks = ""
  for name, values in sections.items():
    rows = "".join(
      f'<tr><th scope="row">{escape(key)}</th>'
      f"<td>{escape(json.dumps(value, default=str))}</td></tr>"
      for key, value in values.items()
    )
    if rows:
      blocks += f"<div><h3>{escape(name)}</h3><table>{rows}</table></div>"
  return (
    "<section><details><summary><h2>Config</h2></summary>"
    f'<div class="config">{blocks}</div></details></section>'
  )


_TIMES = {
  "step": "steps",
  "input": "waiting for a batch",
  "checkpoint": "saving checkpoints",
  "compile": "tracing and compiling",
  "restore": "restoring, or the first state",
  "other": "the rest: data set, rows",
}
_PROBE_TIMES = {
  "features": "features",
  "spectrum": "spectra",
  "probe": "classifiers",
  "diagnostics": "diagnostics",
  "compile": "tracing and compiling",
  "restore": "reading checkpoints",
  "wait": "waiting for a checkpoint",
  "other": "the rest: data set, rows",
}


def _shares(
  lives: Sequence[Life] | Sequence[ProbeLife], names: Mapping[str, str]
) -> str:
  """Returns a table of seconds and shares, over all lives."""
  total = sum(life.seconds for life in lives)
  rows = {}
  for kind, name in names.items():
    own = sum(getattr(life, kind) for life in lives)
    rows[name] = (f"{own:,.1f} s", f"{own / total:.1%}")
  return elements.scores("", ("time", "share"), rows, last_stands_out=False)


def _probe_time(run: Run) -> str:
  if not run.probe_lives:
    return elements.missing("No clock of a probe is here.")
  starts = len(run.probe_lives)
  total = sum(life.seconds for life in run.probe_lives)
  caption = (
    f"{starts} start{'s' * (starts > 1)} of the probe, {total:,.1f} s "
    "together: a process of its own, whose time is none of the training's; on "
    "the same machine it makes the training's steps slower."
  )
  return elements.figure(
    _shares(run.probe_lives, _PROBE_TIMES), escape(caption)
  )


def _time(run: Run) -> str:
  """Returns where the time of the training and of the probe went."""
  if not run.lives:
    nothing = elements.missing("No clock of the training is here.")
    return nothing + _probe_time(run)
  total = sum(life.seconds for life in run.lives)
  first = ", ".join(
    f"{life.until_first_step:.1f} s (programs compiled: "
    f"{life.programs_compiled}, found compiled: {life.programs_found})"
    for life in run.lives
    if life.until_first_step is not None
  )
  starts = len(run.lives)
  between = (
    f" Between them {run.idle_seconds:,.1f} s passed, and {run.steps_again} "
    "steps that were not saved were done again."
    if starts > 1
    else ""
  )
  caption = (
    f"{starts} start{'s' * (starts > 1)} of the run, {total:,.1f} s together, "
    "by the loop's clock; a device that is still busy doesn't feel what the "
    f"loop waits for.{between} Until the first step: {first or 'not yet'}."
  )
  training = elements.figure(_shares(run.lives, _TIMES), escape(caption))
  return training + _probe_time(run)


def render(run: Run) -> str:
  """Returns the whole report as one HTML page.

  Args:
    run: what was read of a workdir. What it lacks leaves a sentence.
  """
  sections = {
    "What the features are worth": _scores(run),
    "Accuracy over the training": _accuracy(run),
    "The training": _curves(run),
    "Where the time went": _time(run),
    "What the encoder sees": _views(run),
    "Spectrum of the features": _spectrum(run),
    "What the features are like": diagnostics.content(run, *_probed(run)),
    "Map of the test features": _map(run),
  }
  body = "\n".join(elements.section(*section) for section in sections.items())
  config = to_dict(run.config)
  page = importlib.resources.files("jssl.report") / "template.html"
  return string.Template(page.read_text()).substitute(
    title=escape(f"{config['objective']['name']} on {run.config.data.name}"),
    summary=_summary(run),
    sections=body + "\n" + _config(config),
    footer=f"jssl {__version__}, {escape(str(run.workdir.absolute()))}",
  )
