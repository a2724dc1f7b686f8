"""What a page says of features without labels, and of collapse."""

import json

import numpy as np
import pytest
from report.rows import ABOUT, CONCENTRATION, diagnostics_row, spectrum_row

from jssl.report import diagnostics, figures
from jssl.report.read import read

SET = ABOUT["dataset"]


@pytest.fixture
def content(workdir):
  def of(*rows, step=40):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (workdir / "probe.jsonl").write_text(text)
    return diagnostics.content(read(workdir), SET, step)

  return of


def test_without_diagnostics_the_command_is_told(content):
  text = content(spectrum_row(20, 0.8))
  assert "--diagnostics</code>" in text
  assert "<svg" not in text


@pytest.mark.parametrize(
  ("aucs", "words"),
  [
    ([0.8, 0.7], "over three checkpoints or more; the probe has read 2"),
    ([0.8, 0.7, 0.69, 0.68], "0.680 at step 40. It has not risen for good"),
    ([0.8, 0.7, 0.69, 0.68], "in order: step 40, 30, 20."),
    ([0.8, 0.7, 0.79, 0.85], "begun to collapse: its collapse AUC was lowest"),
    ([0.8, 0.7, 0.79, 0.85], "step 20 (0.700).</strong> The collapse AUC is"),
    ([0.995, 0.995, 0.995], "<strong>The features have collapsed.</strong>"),
    ([0.995], "<strong>The features have collapsed.</strong>"),
  ],
)
def test_collapse_is_told_of_once_it_has_begun(content, aucs, words):
  text = content(*(spectrum_row(10 * i, a) for i, a in enumerate(aucs, 1)))
  assert words in text


def test_a_set_without_labels_has_a_verdict(content):
  aucs = {10: 0.8, 20: 0.7, 30: 0.79, 40: 0.85}
  rows = [spectrum_row(step, auc) for step, auc in aucs.items()]
  text = content(*rows, diagnostics_row(40, "backbone"), step=None)
  assert "lowest at step 20 (0.700)" in text
  assert "in order: step 20, 30, 10." in text


def test_a_rise_within_the_margin_is_no_collapse(content):
  random = {**spectrum_row(0, 0.927), "features": "random"}
  aucs = (0.914, 0.921, 0.925, 0.924)
  text = content(
    random, *(spectrum_row(10 * i, a) for i, a in enumerate(aucs, 1))
  )
  assert "begun to collapse" not in text
  assert "0.927 of the random backbone" in text


def test_the_random_backbone_is_what_to_compare_with(content):
  random = {**spectrum_row(0, 0.75), "features": "random"}
  text = content(random, spectrum_row(20, 0.8))
  assert "0.800 at step 20, and 0.750 of the random backbone." in text


def test_the_shown_step_and_the_random_backbone_are_tabulated(content):
  text = content(
    diagnostics_row(20, "backbone", rank_me=99.0),
    diagnostics_row(40, "backbone"),
    diagnostics_row(40, "projector", rank_me=3.25),
    diagnostics_row(0, "backbone", features="random", rank_me=7.0),
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
  text = content(diagnostics_row(40, "projector", missing=("lidar",)))
  assert "<td>-</td>" in text
  assert "projector, step 40: lidar: too few &lt;images&gt;" in text


def test_a_checkpoint_of_which_nothing_was_measured_is_told(content):
  row = diagnostics_row(40, "backbone")
  lost = {"values": {}, "curves": {}, "not_measured": {"features": "3 of 9"}}
  text = content(row | lost)
  assert "backbone, step 40: features: 3 of 9" in text


def test_the_condition_of_the_bound_is_said_in_words(content):
  rows = [
    diagnostics_row(40, place, **{"bound/holds": holds, "bound/bound": 0.375})
    for place, holds in (("backbone", False), ("projector", True))
  ]
  text = content(*rows)
  assert "<td>holds</td>" in text
  assert "<td>doesn&#x27;t hold</td>" in text
  assert text.count("<td>0.375</td>") == 2
  assert "bound/holds" not in text


def test_what_was_looked_at_is_said(content):
  about = {"images": 600, "views": 8, "num_classes": 60}
  text = content({**diagnostics_row(40, "backbone"), **about})
  said = "of 8 random views of each of 600 images of 60 classes"
  assert said in text
  assert said not in content(diagnostics_row(40, "backbone"))


def test_a_step_without_diagnostics_shows_the_last_that_has_them(content):
  text = content(
    diagnostics_row(10, "backbone"), diagnostics_row(20, "backbone")
  )
  assert "backbone, step 20" in text


def lines(ax):
  return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_curves_over_time_are_those_of_the_rows(content, workdir):
  content(
    *(spectrum_row(step, 0.8) for step in (20, 40)),
    *(diagnostics_row(step, "backbone") for step in (20, 40)),
  )
  run = read(workdir)
  spectra, path, _ = figures.features_over_time(
    run.spectra, run.diagnostics
  ).axes
  drawn = [line.get_ydata() for line in spectra.get_lines()]
  np.testing.assert_allclose(drawn, [[1, 0.5, 0.25]] * 2)
  np.testing.assert_allclose(
    lines(path)["backbone"], [[-1.2, 0.3], [-1.4, 0.1]]
  )


def test_concentration_has_both_bounds_and_a_line_for_each_place(
  content, workdir
):
  content(diagnostics_row(40, "backbone"), CONCENTRATION)
  run = read(workdir)
  left, right = figures.concentration(
    run.concentrations[0], run.diagnostics
  ).axes
  np.testing.assert_allclose(lines(left)["upper bound"], [[1, 0.75], [2, 0]])
  np.testing.assert_allclose(lines(left)["lower bound"], [[1, 0.5], [2, 0]])
  np.testing.assert_allclose(
    lines(right)["backbone"], [[0, 1], [1, 0.5], [2, 0]]
  )
  assert len(figures.concentration(None, run.diagnostics).axes) == 2


def test_the_backbone_has_one_colour_and_no_place_is_dropped(content, workdir):
  places = ["a", "b", "c", "d", "backbone"]
  content(*(diagnostics_row(40, place) for place in places))
  run = read(workdir)
  _, over_time = figures.features_over_time(run.spectra, run.diagnostics).axes
  _, divergence = figures.concentration(None, run.diagnostics).axes
  for ax in (over_time, divergence):
    colours = {
      line.get_label(): line.get_color()
      for line in ax.get_lines()
      if line.get_label() in places
    }
    assert colours.keys() == {*places}
    assert len({*colours.values()}) == 5
    assert colours["backbone"] == "#2f64ad"
