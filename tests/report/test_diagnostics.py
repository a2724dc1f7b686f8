"""What a page says of features without labels, and of collapse."""

import numpy as np
import pytest
from probe.made import (
  CONCENTRATION,
  DATASET,
  diagnostics_record,
  spectrum_record,
  write_records,
)

from jssl.probe.records import (
  ConcentrationRecord,
  DiagnosticsRecord,
  SpectrumRecord,
)
from jssl.report import diagnostics, figures, html
from jssl.report.read import read


@pytest.fixture
def content(workdir):
  def of(*records, step=40):
    write_records(workdir, records)
    values = diagnostics.values(read(workdir), DATASET, step)
    text = html.render("jssl.report", "diagnostics.html.j2", **values)
    return " ".join(text.split())

  return of


def test_without_diagnostics_the_command_is_told(content):
  text = content(spectrum_record(20, 0.8))
  assert "--diagnostics</code>" in text
  assert "<svg" not in text


@pytest.mark.parametrize(
  ("aucs", "words"),
  [
    ([0.8, 0.7], "at least three probed checkpoints; there are 2."),
    ([0.8, 0.7, 0.69, 0.68], "0.680 at step 40. It has no lasting rise."),
    ([0.8, 0.7, 0.69, 0.68], "those of step 40, 30, 20."),
    ([0.8, 0.7, 0.79, 0.85], "begun to collapse: the collapse AUC was lowest"),
    (
      [0.8, 0.7, 0.79, 0.85],
      "step 20 (0.700).</strong></p> <p>The",
    ),
    ([0.995, 0.995, 0.995], "<strong>The features have collapsed.</strong>"),
    ([0.995], "<strong>The features have collapsed.</strong>"),
  ],
)
def test_collapse_is_told_of_once_it_has_begun(content, aucs, words):
  text = content(*(spectrum_record(10 * i, a) for i, a in enumerate(aucs, 1)))
  assert words in text


def test_a_set_without_labels_has_a_verdict(content):
  aucs = {10: 0.8, 20: 0.7, 30: 0.79, 40: 0.85}
  records = [spectrum_record(step, auc) for step, auc in aucs.items()]
  text = content(*records, diagnostics_record(40, "backbone"), step=None)
  assert "lowest at step 20 (0.700)" in text
  assert "those of step 20, 30, 10." in text


def test_a_rise_within_the_margin_is_no_collapse(content):
  random = spectrum_record(0, 0.927, features="random")
  aucs = (0.914, 0.921, 0.925, 0.924)
  text = content(
    random, *(spectrum_record(10 * i, a) for i, a in enumerate(aucs, 1))
  )
  assert "begun to collapse" not in text
  assert "0.927 for the random backbone" in text


def test_the_random_backbone_is_what_to_compare_with(content):
  random = spectrum_record(0, 0.75, features="random")
  text = content(random, spectrum_record(20, 0.8))
  assert "0.800 at step 20 and 0.750 for the random backbone." in text


def test_the_shown_step_and_the_random_backbone_are_tabulated(content):
  text = content(
    diagnostics_record(20, "backbone", values={"rank_me": 99.0}),
    diagnostics_record(40, "backbone"),
    diagnostics_record(40, "projector", values={"rank_me": 3.25}),
    diagnostics_record(
      0, "backbone", features="random", values={"rank_me": 7.0}
    ),
    CONCENTRATION,
  )
  order = ["random backbone", "projector, step 40", "backbone, step 40"]
  at = [text.index(f">{name}</th>") for name in order]
  assert at == sorted(at)
  for number in ("12.3", "3.2", "7.0", "0.500", "2.000"):
    assert f"<td>{number}</td>" in text
  assert "<td>99.0</td>" not in text
  assert text.count("<svg") == 2


def test_what_was_not_measured_says_why(content):
  text = content(diagnostics_record(40, "projector", missing=("lidar",)))
  assert "<td>-</td>" in text
  assert "projector, step 40: lidar: too few &lt;images&gt;" in text


def test_the_condition_of_the_bound_is_said_in_words(content):
  records = [
    diagnostics_record(
      40, place, values={"bound/holds": holds, "bound/bound": 0.375}
    )
    for place, holds in (("backbone", False), ("projector", True))
  ]
  text = content(*records)
  assert "<td>holds</td>" in text
  assert "<td>does not hold</td>" in text
  assert text.count("<td>0.375</td>") == 2
  assert "bound/holds" not in text


def test_the_sample_is_described(content):
  text = content(diagnostics_record(40, "backbone"))
  assert "8 random views of each of 600 images of 60 classes" in text


def test_a_step_without_diagnostics_shows_the_last_that_has_them(content):
  text = content(
    diagnostics_record(10, "backbone"), diagnostics_record(20, "backbone")
  )
  assert "backbone, step 20" in text


def lines(ax):
  return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_curves_over_time_are_those_of_the_rows(content, workdir):
  content(
    *(spectrum_record(step, 0.8) for step in (20, 40)),
    *(diagnostics_record(step, "backbone") for step in (20, 40)),
  )
  run = read(workdir)
  spectra, path, _ = figures.features_over_time(
    run.select(SpectrumRecord), run.select(DiagnosticsRecord)
  ).axes
  drawn = [line.get_ydata() for line in spectra.get_lines()]
  np.testing.assert_allclose(drawn, [[1, 0.5, 0.25]] * 2)
  np.testing.assert_allclose(
    lines(path)["backbone"], [[-1.2, 0.3], [-1.4, 0.1]]
  )


def test_concentration_has_both_bounds_and_a_line_for_each_place(
  content, workdir
):
  content(diagnostics_record(40, "backbone"), CONCENTRATION)
  run = read(workdir)
  left, right = figures.concentration(
    run.select(ConcentrationRecord)[0], run.select(DiagnosticsRecord)
  ).axes
  np.testing.assert_allclose(lines(left)["upper bound"], [[1, 0.75], [2, 0]])
  np.testing.assert_allclose(lines(left)["lower bound"], [[1, 0.5], [2, 0]])
  np.testing.assert_allclose(
    lines(right)["backbone"], [[0, 1], [1, 0.5], [2, 0]]
  )
  assert (
    len(figures.concentration(None, run.select(DiagnosticsRecord)).axes) == 2
  )


def test_the_backbone_has_one_colour_and_no_place_is_dropped(content, workdir):
  places = ["a", "b", "c", "d", "backbone"]
  content(*(diagnostics_record(40, place) for place in places))
  run = read(workdir)
  _, over_time = figures.features_over_time(
    run.select(SpectrumRecord), run.select(DiagnosticsRecord)
  ).axes
  _, divergence = figures.concentration(
    None, run.select(DiagnosticsRecord)
  ).axes
  for ax in (over_time, divergence):
    colours = {
      line.get_label(): line.get_color()
      for line in ax.get_lines()
      if line.get_label() in places
    }
    assert colours.keys() == {*places}
    assert len({*colours.values()}) == 5
    assert colours["backbone"] == "#2f64ad"
