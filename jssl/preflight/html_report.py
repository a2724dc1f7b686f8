"""Reports of preflight as self-contained HTML pages."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.preflight import text_report
from jssl.preflight.check import Attempt, Point, Result
from jssl.report import charts
from jssl.report.html import render


def _facts(result: Result) -> dict[str, str]:
  step, bound = result.step, result.step.bound
  facts = {
    "fits": "yes" if result.fits else "no",
    "peak memory of the step": text_report.gib(step.memory.peak),
    "FLOPs of the step": f"{step.product_flops / 1e9:,.0f} G per device",
  }
  if bound is not None:
    facts["bound by"] = bound.bound_by
    facts["max images/s"] = f"{bound.images_per_second:,.0f}"
  return facts


@charts.styled
def _scaling(points: Sequence[Point]) -> Figure:
  """Plots peak memory, bytes sent and the roofline bound by size."""
  figure = Figure(figsize=(charts.WIDTH_IN, 3.0))
  compiled = [(p.size.name, p.result) for p in points if p.result is not None]
  names = [name for name, _ in compiled]
  panels: dict[str, list[float]] = {
    "peak memory, GiB": [
      (r.step.memory.peak or np.nan) / 2**30 for _, r in compiled
    ],
    "sent, MiB": [r.step.sent_bytes / 2**20 for _, r in compiled],
    "max images/s per device": [
      r.step.bound.images_per_second / math.prod(r.mesh.values())
      if r.step.bound
      else np.nan
      for _, r in compiled
    ],
  }
  for ax, (title, values) in zip(
    figure.subplots(1, len(panels)), panels.items(), strict=True
  ):
    ax.plot(names, values, marker="o")
    ax.set_title(title)
    ax.set_ylim(bottom=0)
    ax.tick_params(axis="x", rotation=20)
  return figure


def sweep_html(points: Sequence[Point], *, config: Config, command: str) -> str:
  """Returns the page of a sweep; `command` reproduces it."""
  return render(
    "jssl.preflight",
    "sweep.html.j2",
    title="Preflight sweep",
    rows=text_report.sweep_rows(points),
    headings=text_report.SWEEP_HEADINGS,
    figure=charts.as_svg(_scaling(points), alt="Scaling with size"),
    config=to_dict(config),
    footer=command,
  )


def html(
  result: Result, attempts: Sequence[Attempt], *, config: Config, command: str
) -> str:
  """Returns the page of one config on one target; `command` reproduces it."""
  programs = [
    {
      "name": one.name.capitalize(),
      "rows": text_report.requirement_rows(one),
      "reason": one.reason,
      "lines": text_report.line_rows(one),
      "collectives": text_report.collective_rows(one),
    }
    for one in result.requirements
  ]
  return render(
    "jssl.preflight",
    "preflight.html.j2",
    title=f"Preflight: {text_report.title(result)}",
    facts=_facts(result),
    suggestion=text_report.suggestion(attempts),
    programs=programs,
    state=text_report.state_rows(result),
    line_headings=text_report.LINE_HEADINGS,
    collective_headings=text_report.COLLECTIVE_HEADINGS,
    config=to_dict(config),
    footer=command,
  )
