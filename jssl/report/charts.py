"""Style of all figures, charts that several reports share, and SVG output."""

import io
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from jaxtyping import Float
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

BLUE, RED, GREEN = "#2f64ad", "#c8502b", "#2b8a66"
INK, MUTED, LINE, GRID = "#24292f", "#57606a", "#c9d0d8", "#eceff2"
# Contrast of 3 or more with light and dark pages. Colours differ by 20 CIELAB
# units or more, also as seen with deuteranopia and protanopia.
CLASS_COLOURS = (
  "#3377cc", "#dd7711", "#559988", "#6644ff", "#aa5533", "#4499bb", "#ff2277",
)  # fmt: skip
_MARKERS = "o^s"
# The two numbers have no common divisor, so all pairs differ.
MAX_LOOKS = len(CLASS_COLOURS) * len(_MARKERS)
WIDTH_IN = 10.4

_STYLE: dict[Any, Any] = {
  "axes.edgecolor": LINE,
  "axes.facecolor": "none",
  "axes.grid": True,
  "axes.labelcolor": MUTED,
  "axes.prop_cycle": cycler(color=[BLUE, RED, GREEN]),
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 9,
  "axes.titleweight": "bold",
  "figure.constrained_layout.use": True,
  "figure.facecolor": "none",
  "font.size": 8.5,
  "grid.color": GRID,
  "legend.frameon": False,
  "lines.linewidth": 1.6,
  "lines.markersize": 4,
  "text.color": INK,
  # Names may contain dollar signs.
  "text.parse_math": False,
  "xtick.color": LINE,
  "xtick.labelcolor": MUTED,
  "ytick.color": LINE,
  "ytick.labelcolor": MUTED,
}
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
styled = matplotlib.rc_context(_STYLE)


def drawable(name: str) -> str:
  """Escapes bytes that are not UTF-8, which Matplotlib cannot draw."""
  return name.encode(errors="backslashreplace").decode()


def look(number: int) -> dict[str, Any]:
  """Returns colour and marker of a class; both differ between neighbours."""
  return {
    "color": CLASS_COLOURS[number % len(CLASS_COLOURS)],
    "marker": _MARKERS[number % len(_MARKERS)],
  }


@styled
def paths(
  series: Mapping[str, Sequence[tuple[float, float]]],
  *,
  title: str,
  x_label: str,
  line: tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]] | None = None,
) -> Figure:
  """Draws a path through points for each series; its last point is large.

  `line` has the x and y of a linear fit to draw too. The title names y.
  """
  figure = Figure(figsize=(WIDTH_IN, 4.2))
  ax = figure.subplots()
  handles: dict[str, Artist] = {}
  for number, (name, points) in enumerate(series.items()):
    style = {**look(number), "label": drawable(name)}
    x, y = np.array(points).T
    (handles[name],) = ax.plot(x, y, lw=0.8, **style)
    ax.plot(x[-1], y[-1], markersize=9, **style)
  if line is not None:
    (handles["linear fit"],) = ax.plot(*line, ls="--", color=MUTED, lw=1.2)
  ax.set_title(title)
  ax.set_xlabel(x_label)
  # Labels of artists that start with an underscore are not in a legend.
  names = [drawable(name) for name in handles]
  figure.legend([*handles.values()], names, loc="outside right center")
  return figure


@styled
def dots(
  series: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str
) -> Figure:
  """Draws means with error bars, one row per name, from the bottom up.

  `series` has (mean, standard deviation) by name, for each kind of number.
  """
  names = [*dict.fromkeys(name for of in series.values() for name in of)]
  figure = Figure(figsize=(WIDTH_IN, 1.2 + 0.3 * len(names)))
  ax = figure.subplots()
  kinds = [(kind, of) for kind, of in series.items() if of]
  # Offsets keep the kinds from hiding each other.
  offsets = 0.2 * (np.arange(len(kinds)) - (len(kinds) - 1) / 2)
  for (kind, of), offset, marker in zip(
    kinds, offsets, itertools.cycle(_MARKERS), strict=False
  ):
    mean, std = np.array([*of.values()]).T
    places = [names.index(name) - offset for name in of]
    ax.errorbar(mean, places, xerr=std, fmt=marker, capsize=3, lw=1, label=kind)
  ax.set_yticks(range(len(names)), map(drawable, names))
  ax.tick_params(axis="y", labelcolor=INK, length=0)
  ax.set_title(title)
  if ax.containers:
    figure.legend(loc="outside right center")
  return figure


def _add_values(svg: str, ax: Axes, line: Line2D) -> str:
  """Gives each marker of a line, the group of its gid, a tooltip."""
  name, label = ax.get_title(loc="left"), str(line.get_label())
  if not label.startswith("_child"):  # Matplotlib's default.
    name = f"{label}, {name}"
  texts = [
    f"{name}; {ax.get_xlabel()}: {x:,.6g}; value: {y:.4g}"
    for x, y in np.asarray(line.get_xydata())
  ]
  start = svg.index(f'<g id="{line.get_gid()}">')
  group = svg[start : svg.index("<g id=", start + 1)]
  markers = re.split(r"(<use [^>]*)/>", group)
  if len(markers) == 1 + 2 * len(texts):  # All points are within the figure.
    markers[2::2] = [
      f"><title>{escape(text)}</title></use>{rest}"
      for text, rest in zip(texts, markers[2::2], strict=True)
    ]
  return svg.replace(group, "".join(markers), 1)


def as_svg(figure: Figure, *, alt: str, dpi: int = 160) -> Markup:
  """Renders a figure as an `svg` element, marked as safe for templates.

  Markers show their values when the pointer is on them.

  SVG ids are made from the text alternative `alt`, so it must be unique within
  a page. `dpi` is the resolution of rasterized parts.
  """
  file = io.StringIO()
  # Text as text is smaller, searchable, and in the font of the page.
  settings = {**_STYLE, "svg.fonttype": "none", "svg.hashsalt": alt}
  lines = [
    (ax, line)
    for ax in figure.axes
    for line in ax.lines
    if line.get_marker() != "None"
  ]
  for number, (_, line) in enumerate(lines):
    line.set_gid(f"values-{number}")
  nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
  with matplotlib.rc_context(settings), warnings.catch_warnings():
    # A browser has other fonts.
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    figure.savefig(file, format="svg", metadata=nothing, dpi=dpi)
  svg = file.getvalue()
  for ax, line in lines:
    svg = _add_values(svg, ax, line)
  svg = _NOT_XML.sub("\ufffd", svg[svg.index("<svg") :])
  # Group ids repeat between figures, and nothing refers to them.
  svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
  label = f'role="img" aria-label="{escape(alt)}"'
  return Markup(svg.replace("<svg", f"<svg {label}", 1))
