from xml.etree import ElementTree

import numpy as np

from jssl.kernel_regime.study import figures
from jssl.report.charts import as_svg

NAMES = ["$a$ $\\frac{$", "<b>&amp;\"'</b>", "_private"]


def test_class_names_are_drawn_as_they_are():
  k = np.eye(6)
  figure = figures.kernels({NAMES[0]: k}, np.arange(6) // 2, NAMES)
  root = ElementTree.fromstring(as_svg(figure, alt=NAMES[1]))
  texts = [e.text for e in root.iter() if e.text]
  assert [texts.count(name) for name in NAMES] == [2, 1, 1]
  assert root.get("aria-label") == NAMES[1]
