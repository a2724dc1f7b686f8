"""Figures: pure functions from data to a figure, and from a figure to SVG."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from jssl.probe.records import (
  BASELINES,
  PROBES,
  ConcentrationRecord,
  DiagnosticsRecord,
  ProbeRecord,
  SpectrumRecord,
)
from jssl.report import charts

_TICKS = [1, 2, 2.5, 5, 10]

_BASELINE = {"color": charts.MUTED, "lw": 1.2}
_STYLES: dict[str, dict[str, Any]] = {
  "backbone": {"color": charts.BLUE},
  "student": {"color": charts.RED},
  "random": {**_BASELINE, "ls": ":"},
  "pixels": {**_BASELINE, "ls": "--"},
}
_CURVES = {
  "loss": "loss",
  "learning_rate": "learning rate",
  "gradient_norm": "gradient norm",
  "images_per_second": "images/s",
  "mfu": "model FLOPs utilisation",
}
# Curves from zero, by the format of their ticks.
_RATES = {"images_per_second": "{x:,.0f}", "mfu": "{x:.1%}"}
_NOT_CURVES = {"step", "time", "seconds", "seconds_per_step"}


def _over_steps(ax: Axes, title: str, y_format: str = "{x:g}") -> None:
  ax.set_title(title)
  ax.set_xlabel("step")
  ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_TICKS))
  ax.xaxis.set_major_formatter("{x:,.0f}")
  ax.yaxis.set_major_locator(MaxNLocator(5, steps=_TICKS))
  ax.yaxis.set_major_formatter(y_format)


@charts.styled
def curves(metrics: Mapping[str, Float[np.ndarray, "n"]]) -> Figure:
  """Draws each training metric over steps, one panel each."""
  names = [name for name in _CURVES if name in metrics]
  names += [n for n in metrics if n not in _CURVES and n not in _NOT_CURVES]
  rows = math.ceil(len(names) / 2)
  figure = Figure(figsize=(charts.WIDTH_IN, 2.1 * rows))
  for ax, name in zip(
    figure.subplots(rows, 2, squeeze=False).flat, names, strict=False
  ):
    ax.plot(metrics["step"], metrics[name])
    _over_steps(ax, _CURVES.get(name, name.replace("_", " ")))
    if name in _RATES:
      ax.set_ylim(bottom=0)
      ax.yaxis.set_major_formatter(_RATES[name])
  for ax in figure.axes[len(names) :]:
    ax.remove()
  return figure


@charts.styled
def accuracy(records: Sequence[ProbeRecord]) -> Figure:
  """Draws test accuracy and baselines over steps, one panel per probe."""
  probes = [
    name for name in PROBES if any(record.probe == name for record in records)
  ]
  figure = Figure(figsize=(charts.WIDTH_IN, 3.4))
  panels = figure.subplots(1, len(probes), sharey=True, squeeze=False).flat
  for ax, probe in zip(panels, probes, strict=True):
    for features, style in _STYLES.items():
      points = {
        r.step: r for r in records if (r.features, r.probe) == (features, probe)
      }
      if not points:
        continue
      steps = sorted(points)
      mean, std = (
        100
        * np.array(
          [
            (points[step].test_accuracy, points[step].test_accuracy_std)
            for step in steps
          ]
        ).T
      )
      label = f"{points[steps[-1]].title}, {mean[-1]:.1f}%"
      if features not in BASELINES:
        ax.plot(steps, mean, marker="o", label=label, **style)
        ax.fill_between(
          steps, mean - std, mean + std, alpha=0.15, lw=0, **style
        )
      else:
        ax.axhline(mean[-1], label=label, **style)
    _over_steps(ax, f"{PROBES[probe]} probe", "{x:g}%")
    ax.yaxis.set_tick_params(labelleft=True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
  return figure


def _plot_relative(ax: Axes, values: Sequence[float], **style: Any) -> None:
  """Plots values over the first, the largest; below 1e-7 is rounding."""
  relative = np.maximum(np.array(values) / max(values[0], 1e-30), 1e-7)
  ax.plot(np.arange(1, len(relative) + 1), relative, **style)


def _by_index(ax: Axes, title: str) -> None:
  ax.set_yscale("log")
  ax.set_title(title)
  ax.set_xlabel("index of the singular value")
  ax.yaxis.set_major_formatter("{x:g}")
  ax.yaxis.set_minor_formatter(NullFormatter())


@charts.styled
def spectrum(spectra: Sequence[SpectrumRecord], step: int) -> Figure:
  """Draws singular values on a log scale, and the collapse AUC over steps.

  Standard deviations of the backbone's dimensions are dotted.
  """
  of_step = {s.step: s for s in spectra if s.features == "backbone"}
  shown = {s.features: s for s in spectra if s.features == "random"}
  if step in of_step:
    shown["backbone"] = of_step[step]
  figure = Figure(figsize=(charts.WIDTH_IN, 3.2))
  left, right = figure.subplots(1, 2, width_ratios=(3, 2))
  for features, style in _STYLES.items():
    if one := shown.get(features):
      label = f"{one.title}, AUC {one.collapse_auc:.3f}"
      _plot_relative(left, one.singular_values, label=label, **style)
  if "backbone" in shown and (values := shown["backbone"].deviation):
    style = {"color": charts.BLUE, "ls": ":"}
    _plot_relative(left, values, label="deviation of dimensions", **style)
  _by_index(left, "singular values, relative to the largest")
  left.legend()

  steps = sorted(of_step)
  auc = [of_step[step].collapse_auc for step in steps]
  right.plot(steps, auc, marker="o")
  if "random" in shown:
    right.axhline(shown["random"].collapse_auc, **_STYLES["random"])
  _over_steps(right, "collapse AUC")
  right.set_ylim(0.5, 1.01)
  return figure


def _colours(names: Iterable[str]) -> dict[str, str]:
  """Returns a colour for the backbone, always the same, and each head."""
  heads = [name for name in dict.fromkeys(names) if name != "backbone"]
  others = (charts.RED, charts.GREEN, *charts.CLASS_COLOURS[3:])
  pairs = zip(heads, itertools.cycle(others), strict=False)
  return {"backbone": charts.BLUE, **dict(pairs)}


def _by_step(ax: Axes, steps: Sequence[int]) -> Sequence[Any]:
  """Adds a colour bar of steps; returns the colour of each, late ones dark."""
  colours = matplotlib.colormaps["viridis_r"]
  scale = Normalize(min(*steps, max(steps) - 1), max(steps))
  bar = ax.figure.colorbar(ScalarMappable(scale, colours), ax=ax, pad=0.02)
  bar.set_label("step")
  bar.outline.set_visible(False)
  bar.locator = MaxNLocator(4, integer=True)
  bar.formatter = StrMethodFormatter("{x:,.0f}")
  bar.update_ticks()
  return [colours(scale(step)) for step in steps]


@charts.styled
def features_over_time(
  spectra: Sequence[SpectrumRecord], diagnostics: Sequence[DiagnosticsRecord]
) -> Figure:
  """Draws the backbone's spectrum, alignment and uniformity over steps."""
  figure = Figure(figsize=(charts.WIDTH_IN, 3.6))
  left, right = figure.subplots(1, 2)
  if spectra:
    colours = _by_step(left, [s.step for s in spectra])
    for s, colour in zip(spectra, colours, strict=True):
      _plot_relative(left, s.singular_values, color=colour, lw=1.2)
  _by_index(left, "backbone singular values, relative to the largest")

  for name, own in _colours(d.at for d in diagnostics).items():
    path = [
      (d.values["uniformity"], d.values["alignment"])
      for d in diagnostics
      if d.at == name and {"uniformity", "alignment"} <= d.values.keys()
    ]
    if path:
      x, y = np.array(path).T
      right.plot(x, y, color=own, marker="o", label=name, lw=1)
      right.plot(x[-1], y[-1], color=own, marker="o", markersize=9)
  right.set_title("alignment and uniformity (large: last step)")
  right.set_xlabel("uniformity, lower is more uniform")
  right.set_ylabel("alignment, lower is closer")
  if right.lines:
    right.legend()
  return figure


@charts.styled
def concentration(
  curve: ConcentrationRecord | None, diagnostics: Sequence[DiagnosticsRecord]
) -> Figure:
  """Draws 1 - sigma over delta, and R over epsilon of one step."""
  figure = Figure(figsize=(charts.WIDTH_IN, 3.2))
  left, right = figure.subplots(1, 2)
  if curve is not None:
    x, low, high = curve.deltas, curve.lower_bound, curve.one_minus_sigma
    left.plot(x, high, label="upper bound")
    left.plot(x, low, label="lower bound", **_BASELINE, ls=":")
    left.fill_between(x, low, high, color=charts.BLUE, alpha=0.1, lw=0)
    left.legend()
  left.set_ylim(-0.02, 1.02)
  left.set_title("images outside the main part, 1 - sigma")
  left.set_xlabel("diameter delta of the main part, pixel distance")
  colours = _colours(d.at for d in diagnostics)
  for d in diagnostics:
    if {"epsilon", "divergence"} <= d.curves.keys():
      x, y = d.curves["epsilon"], d.curves["divergence"]
      right.plot(x, y, color=colours[d.at], label=d.at)
  right.set_ylim(-0.02, 1.02)
  right.set_title("images with views further apart than epsilon, R")
  right.set_xlabel("distance epsilon of normalised features")
  if right.lines:
    right.legend()
  return figure


def _densest(xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "2"]:
  """Returns the point with the closest 10 neighbours."""
  distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
  reach = np.sort(distance, axis=1)[:, min(10, len(xy) - 1)]
  return xy[np.argmin(reach)]


@charts.styled
def scatter(
  xy: Float[np.ndarray, "n 2"],
  labels: Int[np.ndarray, "n"],
  class_names: Sequence[str],
) -> Figure:
  """Draws points coloured by class, with a name at the densest of each."""
  figure = Figure(figsize=(charts.WIDTH_IN, 6.2))
  ax = figure.subplots()
  present = np.unique(labels)
  for label in present:
    x, y = xy[labels == label].T
    ax.scatter(
      x,
      y,
      s=9,
      **charts.look(int(label)),
      lw=0,
      alpha=0.75,
      # Thousands of vector markers would make the page large.
      rasterized=True,
    )
    x, y = _densest(xy[labels == label])
    ax.text(
      x,
      y,
      charts.drawable(class_names[label]),
      ha="center",
      va="center",
      weight="bold",
      size=10,
      path_effects=[withStroke(linewidth=3, foreground="white")],
    )
  ax.set_axis_off()
  ax.set_aspect("equal")
  # Labels of artists that start with an underscore are not in a legend.
  names = [charts.drawable(class_names[label]) for label in present]
  figure.legend(
    ax.collections, names, loc="outside right center", markerscale=2
  )
  return figure
