"""Figures of the kernel studies."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jssl.kernel_regime.study.cases import Features
from jssl.kernel_regime.study.spirals import EXTENT, Noise, Toy
from jssl.report import charts

_DIVERGING = "RdBu_r"
_INK = "#24292f"
_ARMS = ("#24292f", "#ffffff")
_COLOURS: Mapping[Features, str] = {
  "raw": "#57606a",
  "raw_augmented": "#b08a1f",
  "contrastive": "#2f64ad",
  "non_contrastive": "#c8502b",
  "supervised": "#2b8a66",
}
_NOISES: Mapping[Noise, str] = {
  "along": "along the arms",
  "isotropic": "in all directions",
}
# An image larger than it is drawn is only a larger file.
_MOST_IMAGES = 400
_LEAST = 1e-6
# What float32 says of a loss that is at its least.
_LEAST_GAP = 1e-7


class Picture(NamedTuple):
  """A kernel of images, to be drawn.

  Attributes:
    title: what it is.
    k: of images, [n, n].
  """

  title: str
  k: Float[np.ndarray, "n n"]


class Panel(NamedTuple):
  """Accuracies over what a sweep changes.

  Attributes:
    title: what is changed.
    values: of it, ascending.
    lines: accuracies in [0, 1] by features, one for each value; None where
      there is none.
    baselines: of features that don't depend on it.
  """

  title: str
  values: Sequence[float]
  lines: Mapping[Features, Sequence[float | None]]
  baselines: Mapping[Features, float]


def _correlations(k: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
  """Returns k(x, x') / (k(x, x) k(x', x'))^1/2, and 0 where that is none."""
  scale = np.sqrt(np.maximum(np.diag(k), 0))
  inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0)
  return k * inverse[:, None] * inverse[None]


@charts.styled
def kernels(
  pictures: Sequence[Picture],
  labels: Int[np.ndarray, "n"],
  class_names: Sequence[str],
) -> Figure:
  """Draws kernels of images as matrices of correlations, ordered by class.

  Args:
    pictures: four at most.
    labels: class of each image.
    class_names: by label.
  """
  order = np.argsort(labels, kind="stable")
  order = order[:: -(-len(order) // _MOST_IMAGES)]
  figure = Figure(figsize=(charts.WIDTH_IN, 4.2))
  axes = figure.subplots(1, len(pictures), squeeze=False)[0]
  ordered = labels[order]
  present, first = np.unique(ordered, return_index=True)
  edges = np.append(first, len(order))
  for ax, picture in zip(axes, pictures, strict=True):
    shown = _correlations(picture.k)[np.ix_(order, order)]
    ax.imshow(shown, cmap=_DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    ax.set_title(picture.title)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    for edge in edges[1:-1]:
      ax.axhline(edge - 0.5, color="white", lw=0.4)
      ax.axvline(edge - 0.5, color="white", lw=0.4)
    ax.set_xticks([])
    ax.set_yticks([])
  names = [class_names[label] for label in present]
  axes[0].set_yticks((edges[1:] + edges[:-1]) / 2 - 0.5, names)
  axes[0].tick_params(length=0)
  axes[0].set_ylabel("images, by class")
  bar = figure.colorbar(
    axes[0].images[0],
    ax=axes,
    orientation="horizontal",
    shrink=0.3,
    aspect=40,
    pad=0.04,
  )
  bar.set_label("kernel, divided by the root of its two diagonals")
  bar.set_ticks([-1, -0.5, 0, 0.5, 1])
  bar.outline.set_visible(False)
  return figure


@charts.styled
def spectra(
  curves: Mapping[Features, Sequence[float]], names: Mapping[Features, str]
) -> Figure:
  """Draws eigenvalues of induced kernels on test images, on a log scale.

  Args:
    curves: by features, each relative to its first.
    names: what features are called.
  """
  figure = Figure(figsize=(charts.WIDTH_IN, 3.0))
  ax = figure.subplots()
  for features, values in curves.items():
    # What is less is rounding.
    shown = [value for value in values if value > _LEAST]
    ax.plot(
      np.arange(1, len(shown) + 1),
      shown,
      marker="o",
      ms=2.5,
      color=_COLOURS[features],
      label=names[features],
    )
  ax.set_yscale("log")
  ax.set_title("eigenvalues of k* on test images, the largest being 1")
  ax.set_xlabel("number of the eigenvalue")
  ax.yaxis.set_major_formatter("{x:g}")
  ax.legend()
  return figure


@charts.styled
def sweeps(panels: Sequence[Panel], names: Mapping[Features, str]) -> Figure:
  """Draws a panel for each sweep, values evenly spaced, baselines dashed.

  Args:
    panels: at least one.
    names: what features are called; the order of the legend.
  """
  rows = -(-len(panels) // 2)
  figure = Figure(figsize=(charts.WIDTH_IN, 2.9 * rows))
  drawn = figure.subplots(rows, 2, squeeze=False).flat
  handles: dict[Features, Any] = {}
  for ax, panel in zip(drawn, panels, strict=False):
    places = np.arange(len(panel.values))
    for features, accuracies in panel.lines.items():
      percent = [np.nan if a is None else 100 * a for a in accuracies]
      (handles[features],) = ax.plot(
        places, percent, marker="o", color=_COLOURS[features]
      )
    for features, accuracy in panel.baselines.items():
      line = ax.axhline(
        100 * accuracy, color=_COLOURS[features], ls="--", lw=1.2
      )
      handles.setdefault(features, line)
    ax.set_title("test accuracy of the SVM")
    ax.set_xlabel(panel.title)
    ax.set_xticks(places, [f"{value:g}" for value in panel.values])
    ax.set_xlim(-0.3, len(places) - 0.7)
    ax.yaxis.set_major_formatter("{x:g} %")
  for ax in figure.axes[len(panels) :]:
    ax.set_axis_off()
  shown = [features for features in names if features in handles]
  figure.legend(
    [handles[features] for features in shown],
    [names[features] for features in shown],
    loc="outside lower center",
    ncols=len(shown),
  )
  return figure


@charts.styled
def gaps(
  lines: Mapping[str, Mapping[str, Float[np.ndarray, "steps"]]], *, bar: float
) -> Figure:
  """Draws how trainings come to their optimum, on logarithmic axes.

  Args:
    lines: relative gaps before each step, by name, in panels by title.
    bar: below which a gap counts as none.
  """
  figure = Figure(figsize=(charts.WIDTH_IN, 3.4))
  axes = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
  for ax, (title, by_name) in zip(axes, lines.items(), strict=True):
    for number, (name, values) in enumerate(by_name.items()):
      loss, narrow = divmod(number, 2)
      ax.plot(
        np.arange(1, len(values) + 1),
        np.maximum(values, _LEAST_GAP),
        color=("#2f64ad", "#c8502b")[loss % 2],
        ls="--" if narrow else "-",
        label=name,
      )
    ax.axhline(bar, color=_INK, ls=":", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="step")
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_formatter("{x:g}")
    ax.set_title(f"gap to the closed form, {title} basis")
  axes[-1].legend()
  return figure


@charts.styled
def spirals(toys: Sequence[Toy]) -> Figure:
  """Draws maps of the plane, a row for each kind of noise.

  Args:
    toys: one for each.
  """
  dims = toys[0].raw.shape[-1]
  figure = Figure(figsize=(charts.WIDTH_IN, 2.75 * len(toys) + 0.2))
  rows = figure.subplots(len(toys), 2 * dims, squeeze=False)
  for axes, toy in zip(rows, toys, strict=True):
    maps = [
      (f"{name} {dim + 1}, AUC {aucs[dim]:.2f}", values[..., dim])
      for name, values, aucs in (
        ("kernel's eigenfunction", toy.raw, toy.raw_auc),
        ("embedding", toy.embedding, toy.embedding_auc),
      )
      for dim in range(dims)
    ]
    for ax, (title, values) in zip(axes, maps, strict=True):
      largest = np.abs(values).max()
      ax.imshow(
        values,
        origin="lower",
        extent=(-EXTENT, EXTENT, -EXTENT, EXTENT),
        cmap=_DIVERGING,
        vmin=-largest,
        vmax=largest,
        interpolation="bilinear",
      )
      for arm, colour in enumerate(_ARMS):
        x, y = toy.points[toy.arm == arm].T
        ax.scatter(x, y, s=5, color=colour, ec=_INK, lw=0.3, rasterized=True)
      # Wide noise takes some points further than the picture goes.
      ax.set_xlim(-EXTENT, EXTENT)
      ax.set_ylim(-EXTENT, EXTENT)
      ax.set_title(title, fontsize=8)
      ax.grid(False)
      ax.spines[:].set_visible(False)
      ax.set_xticks([])
      ax.set_yticks([])
    axes[0].set_ylabel(f"views: noise {_NOISES[toy.noise]}")
  return figure
