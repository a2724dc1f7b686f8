import re
from xml.etree import ElementTree

import numpy as np
import pytest
from probe.made import probe_record, spectrum_record

from jssl.probe.records import ProbeRecord
from jssl.report import charts, figures
from jssl.report.read import read


def texts(svg):
  tags = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
  return [tag.text for tag in tags]


def lines(ax):
  return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_curves_draw_every_metric(workdir):
  metrics = read(workdir).metrics | {"entropy": np.array([1.0, np.nan, 3.0])}
  figure = figures.curves(metrics)
  panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
  assert [*panels][:6] == [
    "loss", "learning rate", "gradient norm", "images/s",
    "model FLOPs utilisation", "entropy",
  ]  # fmt: skip
  (loss,) = panels["loss"].get_lines()
  np.testing.assert_array_equal(loss.get_xydata(), [[10, 4], [20, 3], [30, 2]])
  assert not {"time", "step", "seconds", "seconds per step"} & {*panels}


def test_accuracy_has_a_panel_for_each_probe_with_its_own_baselines(workdir):
  records = read(workdir).select(ProbeRecord, label_fraction=1.0)
  panels = figures.accuracy(records).axes
  assert [ax.get_title(loc="left") for ax in panels] == [
    *("linear probe", "MLP probe", "kNN probe")
  ]
  for j, ax in enumerate(panels):
    drawn = lines(ax)
    np.testing.assert_allclose(
      drawn[f"pretrained, {30 + j}.2%"], [[20, 20.25 + j], [40, 30.25 + j]]
    )
    for name, accuracy in (("random backbone", 10), ("raw pixels", 0)):
      line = drawn[f"{name}, {accuracy + j}.2%"]
      np.testing.assert_allclose(line[:, 1], accuracy + j + 0.25)
  band = panels[0].collections[0].get_paths()[0].get_extents()
  assert (band.y0, band.y1) == pytest.approx((20.25 - 1.23, 30.25 + 1.23))


def test_accuracy_of_one_checkpoint_without_baselines():
  (ax,) = figures.accuracy([probe_record(step=5, probe="knn")]).axes
  np.testing.assert_allclose(lines(ax)["pretrained, 50.0%"], [[5, 50]])


def test_spectrum_is_relative_and_of_the_step(workdir):
  spectra = [
    spectrum_record(
      20, 0.7, singular_values=[4.0, 2.0, 0.0], deviation=[2.0, 1.5, 0.5]
    ),
    spectrum_record(40, 0.8, singular_values=[9.0, 1.0, 1.0]),
    spectrum_record(0, 0.9, features="random", singular_values=[2.0, 1.0, 1.0]),
    spectrum_record(0, 0.51, features="pixels", singular_values=[1.0] * 50),
  ]
  values, auc = figures.spectrum(spectra, 20).axes
  drawn = lines(values)
  assert {*drawn} == {
    "pretrained, AUC 0.700",
    "random backbone, AUC 0.900",
    "deviation of dimensions",
  }
  np.testing.assert_allclose(
    drawn["deviation of dimensions"], [[1, 1], [2, 0.75], [3, 0.25]]
  )
  np.testing.assert_allclose(
    drawn["pretrained, AUC 0.700"], [[1, 1], [2, 0.5], [3, 1e-7]]
  )
  assert values.get_yscale() == "log"
  over_steps, baseline = auc.get_lines()
  np.testing.assert_allclose(over_steps.get_xydata(), [[20, 0.7], [40, 0.8]])
  np.testing.assert_allclose(baseline.get_ydata(), 0.9)


def test_scatter_has_a_look_for_every_class():
  n = charts.MAX_LOOKS
  xy = np.stack([np.arange(n), np.arange(n)], 1).astype(float)
  figure = figures.scatter(xy, np.arange(n), [f"c{i}" for i in range(n)])
  looks = {
    (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
    for dots in figure.axes[0].collections
  }
  assert len(looks) == n
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == [
    f"c{i}" for i in range(n)
  ]


def test_svg_says_what_it_shows_and_keeps_text(workdir):
  figure = figures.curves(read(workdir).metrics)
  svg = charts.as_svg(figure, alt='a <b> & "c"')
  assert ElementTree.fromstring(svg).attrib["aria-label"] == 'a <b> & "c"'
  assert {"loss", "gradient norm", "step"} <= {*texts(svg)}
  assert svg.startswith("<svg")


def test_class_names_are_escaped_and_not_mathematics():
  names = ["<b>&amp;", "$x_1$", "a$b"]
  figure = figures.scatter(np.eye(3, 2), np.arange(3), names)
  assert {*names} <= {*texts(charts.as_svg(figure, alt="map"))}


def test_svg_is_the_same_each_time_and_ids_differ_between_figures(workdir):
  def svg(alt):
    return charts.as_svg(figures.curves(read(workdir).metrics), alt=alt)

  def ids(text):
    return {*re.findall(r'\bid="([^"]*)"', text)}

  assert svg("a") == svg("a")
  assert not ids(svg("a")) & ids(svg("b"))


def test_style_does_not_leak(workdir):
  import matplotlib

  before = dict(matplotlib.rcParams)
  charts.as_svg(figures.curves(read(workdir).metrics), alt="a")
  assert dict(matplotlib.rcParams) == before
