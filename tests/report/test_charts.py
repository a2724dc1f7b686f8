import os
from xml.etree import ElementTree

import numpy as np
import pytest

from jssl.report import charts, figures

NAMES = [
  "$a$ $\\frac{$",
  "$5",
  "<b>&amp;\"'</b>",
  "_private",
  "%s {x}",
  "日本",
]


def texts(figure):
  svg = charts.as_svg(figure, alt='"a" <b>')
  return [e.text for e in ElementTree.fromstring(svg).iter() if e.text]


def test_names_are_drawn_as_they_are():
  path = [(0.0, 1.0), (1.0, 2.0)]
  of_paths = charts.paths(
    dict.fromkeys(NAMES, path), title=NAMES[0], x_label=NAMES[2]
  )
  assert {*NAMES} <= {*texts(of_paths)}
  assert texts(of_paths).count(NAMES[0]) == 2
  accuracies = {name: (50.0, 1.0) for name in NAMES}
  of_dots = charts.dots({NAMES[0]: accuracies, "b": accuracies}, title=NAMES[2])
  assert {*NAMES} <= {*texts(of_dots)}


def test_names_that_are_not_utf8_are_escaped():
  name = os.fsdecode(b"caf\xe9")
  xy = np.random.default_rng(0).normal(size=(30, 2))
  for figure in (
    charts.paths({name: [(0.0, 1.0), (1.0, 2.0)]}, title="a", x_label="b"),
    charts.dots({"a": {name: (50.0, 1.0)}}, title="b"),
    figures.scatter(xy, np.arange(30) % 2, [name, "b"]),
  ):
    assert "caf\\udce9" in texts(figure)


def test_class_names_are_drawn_as_they_are():
  xy = np.random.default_rng(0).normal(size=(30, 2))
  drawn = texts(figures.scatter(xy, np.arange(30) % len(NAMES), NAMES))
  # In the legend; names at the points are outlined, as paths.
  assert [drawn.count(name) for name in NAMES] == [1] * len(NAMES)


@pytest.mark.parametrize("name", ["bell\x07", "\ufffe"])
def test_characters_that_xml_forbids_are_replaced(name):
  path = [(0.0, 1.0), (1.0, 2.0)]
  drawn = texts(charts.paths({name: path}, title="t", x_label="x"))
  assert f"{name[:-1]}\ufffd" in drawn


def test_markers_show_their_values():
  series = {"a <b>": [(0.0, 1.0), (1000.0, 2.25)], "c": [(5.0, 40.0)]}
  figure = charts.paths(series, title="accuracy", x_label="step")
  svg = charts.as_svg(figure, alt="values")
  drawn = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
  titles = [e[0].text for e in drawn if len(e)]
  # The last point of each path is drawn again, larger.
  assert titles == [
    "a <b>, accuracy; step: 0; value: 1",
    "a <b>, accuracy; step: 1,000; value: 2.25",
    "a <b>, accuracy; step: 1,000; value: 2.25",
    "c, accuracy; step: 5; value: 40",
    "c, accuracy; step: 5; value: 40",
  ]
