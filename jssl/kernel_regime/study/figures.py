"""Figures of the kernel studies."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jssl.kernel_regime.study.config import Basis
from jssl.kernel_regime.study.experiments import FEATURE_NAMES, Features
from jssl.kernel_regime.study.spirals import EXTENT, Spirals
from jssl.report import charts

_DIVERGING = "RdBu_r"
_COLOURS: Mapping[Features, str] = {
  "raw": charts.MUTED,
  "raw_augmented": "#b08a1f",
  "contrastive": charts.BLUE,
  "non_contrastive": charts.RED,
  "supervised": charts.GREEN,
}
# More images would exceed the resolution of the figure.
_MAX_IMAGES = 400
# Smaller relative eigenvalues are rounding errors, and so are smaller gaps of a
# loss in float32.
_MIN_EIGENVALUE = 1e-6
_MIN_GAP = 1e-7


def _correlations(k: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
  """Returns k(x, x') / sqrt(k(x, x) k(x', x')), and 0 for 0 / 0."""
  scale = np.sqrt(np.maximum(np.diag(k), 0))
  inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0)
  return k * inverse[:, None] * inverse[None]


def _hide_axes(ax: Axes) -> None:
  ax.grid(False)
  ax.spines[:].set_visible(False)
  ax.set_xticks([])
  ax.set_yticks([])


@charts.styled
def kernels(
  matrices: Mapping[str, Float[np.ndarray, "n n"]],
  labels: Int[np.ndarray, "n"],
  class_names: Sequence[str],
) -> Figure:
  """Draws kernels of images as correlation matrices, ordered by class."""
  order = np.argsort(labels, kind="stable")
  order = order[:: -(-len(order) // _MAX_IMAGES)]
  figure = Figure(figsize=(charts.WIDTH_IN, 4.2))
  axes = figure.subplots(1, len(matrices), squeeze=False)[0]
  present, first = np.unique(labels[order], return_index=True)
  edges = np.append(first, len(order))
  for ax, (title, k) in zip(axes, matrices.items(), strict=True):
    shown = _correlations(k)[np.ix_(order, order)]
    ax.imshow(shown, cmap=_DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    ax.set_title(title)
    _hide_axes(ax)
    for edge in edges[1:-1]:
      ax.axhline(edge - 0.5, color="white", lw=0.4)
      ax.axvline(edge - 0.5, color="white", lw=0.4)
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
  bar.set_label("k(x, x') / sqrt(k(x, x) k(x', x'))")
  bar.set_ticks([-1, -0.5, 0, 0.5, 1])
  bar.outline.set_visible(False)
  return figure


@charts.styled
def spectra(curves: Mapping[Features, Sequence[float]]) -> Figure:
  """Draws relative eigenvalues of induced kernels on test images."""
  figure = Figure(figsize=(charts.WIDTH_IN, 3.0))
  ax = figure.subplots()
  for features, values in curves.items():
    shown = [value for value in values if value > _MIN_EIGENVALUE]
    ax.plot(
      np.arange(1, len(shown) + 1),
      shown,
      marker="o",
      ms=2.5,
      color=_COLOURS[features],
      label=FEATURE_NAMES[features],
    )
  ax.set_yscale("log")
  ax.set_title("eigenvalues of k* on test images, relative to the largest")
  ax.set_xlabel("index of the eigenvalue")
  ax.yaxis.set_major_formatter("{x:g}")
  ax.legend()
  return figure


@charts.styled
def sweeps(
  curves: Mapping[str, Mapping[Features, Mapping[float, float | None]]],
  baselines: Mapping[Features, float | None],
) -> Figure:
  """Draws one panel per sweep, with evenly spaced values.

  Accuracies are in [0, 1] or None. Features that are not in the sweep have
  their baseline as a dashed line.
  """
  rows = -(-len(curves) // 2)
  figure = Figure(figsize=(charts.WIDTH_IN, 2.9 * rows))
  panels = figure.subplots(rows, 2, squeeze=False).flat
  handles: dict[Features, Artist] = {}
  for ax, (title, by_features) in zip(panels, curves.items(), strict=False):
    for features, baseline in baselines.items():
      color = _COLOURS[features]
      if by_value := by_features.get(features):
        percent = [np.nan if a is None else 100 * a for a in by_value.values()]
        (handles[features],) = ax.plot(percent, marker="o", color=color)
        ax.set_xticks(range(len(percent)), [f"{x:g}" for x in by_value])
        ax.set_xlim(-0.3, len(percent) - 0.7)
      elif baseline is not None:
        line = ax.axhline(100 * baseline, color=color, ls="--", lw=1.2)
        handles.setdefault(features, line)
    ax.set_title("test accuracy of the SVM")
    ax.set_xlabel(title)
    ax.yaxis.set_major_formatter("{x:g} %")
  for ax in figure.axes[len(curves) :]:
    ax.set_axis_off()
  shown = [features for features in FEATURE_NAMES if features in handles]
  figure.legend(
    [handles[features] for features in shown],
    [FEATURE_NAMES[features] for features in shown],
    loc="outside lower center",
    ncols=len(shown),
  )
  return figure


@charts.styled
def gaps(
  curves: Mapping[Basis, Mapping[str, Float[np.ndarray, "t"]]],
  *,
  tolerance: float,
) -> Figure:
  """Draws gaps to the optimum over training steps, on logarithmic axes.

  Curves are by basis and name; names alternate between full (solid) and small
  (dashed) dimension.
  """
  figure = Figure(figsize=(charts.WIDTH_IN, 3.4))
  axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
  for ax, (title, by_name) in zip(axes, curves.items(), strict=True):
    for number, (name, values) in enumerate(by_name.items()):
      loss, small = divmod(number, 2)
      ax.plot(
        np.arange(1, len(values) + 1),
        np.maximum(values, _MIN_GAP),
        color=(charts.BLUE, charts.RED)[loss % 2],
        ls="--" if small else "-",
        label=name,
      )
    ax.axhline(tolerance, color=charts.INK, ls=":", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="step")
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_formatter("{x:g}")
    ax.set_title(f"gap to the closed form, {title} basis")
  axes[-1].legend()
  return figure


@charts.styled
def spirals(toys: Sequence[Spirals]) -> Figure:
  """Draws maps of the plane, one row per kind of noise."""
  dims = toys[0].raw.shape[-1]
  figure = Figure(figsize=(charts.WIDTH_IN, 2.75 * len(toys) + 0.2))
  rows = figure.subplots(len(toys), 2 * dims, squeeze=False)
  for axes, toy in zip(rows, toys, strict=True):
    maps = [
      (f"{name} {dim + 1}, AUC {aucs[dim]:.2f}", values[..., dim])
      for name, values, aucs in (
        ("kernel eigenfunction", toy.raw, toy.raw_auc),
        ("embedding", toy.embedding, toy.embedding_auc),
      )
      for dim in range(dims)
    ]
    for ax, (title, values) in zip(axes, maps, strict=True):
      largest = np.abs(values).max()
      ax.imshow(
        values,
        origin="lower",
        extent=(-EXTENT, EXTENT) * 2,
        cmap=_DIVERGING,
        vmin=-largest,
        vmax=largest,
        interpolation="bilinear",
      )
      for arm, colour in enumerate((charts.INK, "white")):
        x, y = toy.points[toy.arm == arm].T
        ax.scatter(
          x, y, s=5, color=colour, ec=charts.INK, lw=0.3, rasterized=True
        )
      # Isotropic noise moves some points out of the picture.
      ax.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT))
      ax.set_title(title, fontsize=8)
      _hide_axes(ax)
    axes[0].set_ylabel(f"views: {toy.noise} noise")
  return figure
