import pytest
from probe import made

from jssl.probe.selection import Choice, choices, score


@pytest.mark.parametrize(
  ("rule", "expected"),
  [("rank_me", 12.3), ("lidar", 5.0), ("alpha_req", -0.25)],
)
def test_scores_of_diagnostics(rule, expected):
  assert score(made.diagnostics_record(10, "backbone"), rule) == expected
  assert score(made.diagnostics_record(10, "projector"), rule) is None
  missing = made.diagnostics_record(10, "backbone", missing=(rule,))
  assert score(missing, rule) is None


def test_the_score_of_accuracy_is_that_of_validation():
  record = made.probe_record(validation_accuracy=0.7, test_accuracy=0.9)
  assert score(record, "accuracy") == 0.7
  assert score(record, "rank_me") is None
  assert score(made.probe_record(probe="knn"), "accuracy") is None
  assert score(made.probe_record(label_fraction=0.1), "accuracy") is None


def test_alpha_is_best_at_one():
  scores = [
    score(
      made.diagnostics_record(1, "backbone", values={"alpha_req": alpha}),
      "alpha_req",
    )
    for alpha in (0.5, 0.9, 1.0, 1.2)
  ]
  assert sorted(range(4), key=lambda i: -scores[i]) == [2, 1, 3, 0]


def test_choices_of_all_rules_and_their_cost():
  records = []
  for step, test, validation, rank, alpha in (
    (10, 0.6, 0.60, 5.0, 1.0),
    (20, 0.8, 0.79, 9.0, 0.5),
    (30, 0.79, 0.81, 7.0, 2.0),
  ):
    values = {"rank_me": rank, "alpha_req": alpha}
    records += [
      made.probe_record(
        step=step, test_accuracy=test, validation_accuracy=validation
      ),
      made.diagnostics_record(
        step, "backbone", values=values, missing=("lidar",)
      ),
    ]
  # Without diagnostics a checkpoint is not compared.
  records.append(made.probe_record(step=40, test_accuracy=0.99))
  records.append(made.probe_record("random", 0, test_accuracy=0.99))
  assert choices(records, made.DATASET) == [
    Choice("accuracy", 30, 0.81, 0.79, pytest.approx(0.01)),
    Choice("rank_me", 20, 9.0, 0.8, 0.0),
    Choice("alpha_req", 10, 0.0, 0.6, pytest.approx(0.2)),
  ]
  assert choices(records, "other") == []
  assert choices(records[:2], made.DATASET) == []
