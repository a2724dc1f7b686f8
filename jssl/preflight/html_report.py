"""Reports of preflight as self-contained HTML pages."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.preflight.check import Trial
from jssl.preflight.text_report import Section
from jssl.report import charts
from jssl.report.html import render


@charts.styled
def _scaling(points: Sequence[Trial]) -> Figure:
  """Plots peak memory, bytes sent and the roofline bound by size."""
  figure = Figure(figsize=(charts.WIDTH_IN, 3.0))
  compiled = [(p.name, p.result) for p in points if p.result is not None]
  names = [name for name, _ in compiled]
  panels: dict[str, list[float]] = {
    "peak memory, GiB": [
      (r.step.memory.peak or np.nan) / 2**30 for _, r in compiled
    ],
    "sent, MiB": [r.step.sent_bytes / 2**20 for _, r in compiled],
    "max images/s per device": [
      r.step.bound.images_per_second / math.prod(r.plan.mesh.values())
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


def html(
  title: str,
  sections: Sequence[Section],
  *,
  config: Config,
  command: str,
  suggestion: str = "",
  points: Sequence[Trial] = (),
) -> str:
  """Returns the page of a report.

  Args:
    title: title of the page.
    sections: tables of the report.
    config: config that was compiled.
    command: command that reproduces the report.
    suggestion: changes with which the config fits.
    points: points of a sweep, for a figure.
  """
  alt = "Scaling with size"
  return render(
    "jssl.preflight",
    "preflight.html.j2",
    title=title,
    sections=sections,
    suggestion=suggestion,
    figure=charts.as_svg(_scaling(points), alt=alt) if points else "",
    config=to_dict(config),
    footer=command,
  )
