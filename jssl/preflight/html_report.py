"""What preflight found, as one self-contained page."""

import importlib.resources
import json
import math
import string
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure

from jssl import __version__
from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.preflight import text_report
from jssl.preflight.changes import Tried
from jssl.preflight.check import Result
from jssl.preflight.requirements import Needs
from jssl.preflight.roofline import roofline
from jssl.preflight.sweep import Point
from jssl.report import charts, elements

_ABOUT = (
  "Everything is of one device, of the real program, compiled on a CPU for "
  "devices that are not there. Times are bounds from data sheets, as if "
  "nothing waited for anything; no program reaches them."
)
_ABOUT_LINES = (
  "What is alive beside the arguments at the fullest moment of the schedule, "
  "by line of source. What shares memory is counted apart, so the sum can be "
  "above the compiler's peak."
)
_ABOUT_TRAFFIC = (
  "Received: what collectives leave a device with in one run, loops counted "
  "by trip. Sent: by a ring."
)


def _table(
  title: str, headings: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> str:
  return elements.scores(title, headings, rows, last_stands_out=False)


def _values(title: str, values: Mapping[str, str]) -> str:
  rows = {name: [value] for name, value in values.items()}
  return _table(title, ("",), rows)


def _program(needs: Needs, result: Result) -> str:
  bound = roofline(needs, result.target)
  content = _values("a device", text_report.needs_table(needs, bound))
  if needs.reason:
    content += elements.missing(escape(needs.reason))
  if needs.memory.lines:
    table = _table(
      "line",
      text_report.LINES_HEADINGS,
      text_report.lines_table(needs.memory.lines),
    )
    content += "<h3>What fills the memory</h3>"
    content += elements.figure(table, escape(_ABOUT_LINES))
  if needs.traffic:
    table = _table(
      "collective",
      text_report.TRAFFIC_HEADINGS,
      text_report.traffic_table(needs.traffic),
    )
    content += "<h3>What is sent</h3>"
    content += elements.figure(table, escape(_ABOUT_TRAFFIC))
  return content


def _facts(result: Result) -> dict[str, str]:
  step, bound = result.step, result.step_bound
  facts = {
    "fits": "yes" if result.fits else "no",
    "peak of the step": text_report.gib(step.memory.peak),
    "FLOPs of the step": f"{step.product_flops / 1e9:,.0f} G a device",
  }
  if bound is not None:
    facts |= {
      "bound by": bound.bound_by,
      "images/s, at most": f"{bound.images_per_second:,.0f}",
    }
  return facts


_ABOUT_SWEEP = (
  "The train step, compiled at each size; all of one device but the batch and "
  "the images a second, which are of all."
)


@charts.styled
def _scaling(points: Sequence[Point]) -> Figure:
  """Draws memory, what is sent and the bound on the speed, by size."""
  drawing = Figure(figsize=(charts.WIDTH_IN, 3.0))
  fitting = [(p.size.name, p.result) for p in points if p.result is not None]
  names = [name for name, _ in fitting]
  panels: dict[str, list[float]] = {
    "peak memory, GiB": [
      (r.step.memory.peak or np.nan) / 2**30 for _, r in fitting
    ],
    "sent, MiB": [r.step.sent_bytes / 2**20 for _, r in fitting],
    "images/s, at most, a device": [
      r.step_bound.images_per_second / math.prod(r.mesh.values())
      if r.step_bound
      else np.nan
      for _, r in fitting
    ],
  }
  for ax, (title, values) in zip(
    drawing.subplots(1, len(panels)), panels.items(), strict=True
  ):
    ax.plot(names, values, marker="o")
    ax.set_title(title)
    ax.set_ylim(bottom=0)
    ax.tick_params(axis="x", rotation=20)
  return drawing


def sweep_html(points: Sequence[Point], *, config: Config, command: str) -> str:
  """Returns the page of a sweep, everything in one file."""
  table = _table(
    "size", text_report.SWEEP_HEADINGS, text_report.sweep_table(points)
  )
  body = elements.section(
    "By size",
    elements.figure(table, escape(_ABOUT_SWEEP))
    + elements.plot(_scaling(points), "memory, traffic and speed by size", ""),
  )
  return _page("Preflight: a sweep", "", body, config, command)


def html(
  result: Result,
  tried: Sequence[Tried],
  *,
  config: Config,
  command: str,
) -> str:
  """Returns the page, everything in one file.

  Args:
    result: what was found.
    tried: changes that were compiled, where it doesn't fit.
    config: of the run.
    command: that makes the page again.
  """
  body = f'<p class="lead">{escape(_ABOUT)}</p>'
  if tried:
    body += elements.section(
      "What to change", f"<p>{escape(text_report.suggestion(tried))}</p>"
    )
  for needs in result.needs:
    name = needs.name[0].upper() + needs.name[1:]
    body += elements.section(name, _program(needs, result))
  body += elements.section(
    "What a device holds between steps",
    _values("a device", text_report.held_table(result)),
  )
  title = f"Preflight: {text_report.title(result)}"
  return _page(title, elements.facts(_facts(result)), body, config, command)


def _page(
  title: str, summary: str, body: str, config: Config, command: str
) -> str:
  body += (
    "\n<section><details><summary><h2>Config</h2></summary>"
    f"<pre>{escape(json.dumps(to_dict(config), indent=2))}</pre>"
    "</details></section>"
  )
  page = importlib.resources.files("jssl.report") / "template.html"
  return string.Template(page.read_text()).substitute(
    title=escape(title),
    summary=summary,
    sections=body,
    footer=escape(f"jssl {__version__}; {command}"),
  )
