"""Rules that choose a checkpoint, by accuracy or without labels."""

import os
from collections.abc import Iterable
from typing import Literal, NamedTuple

from jssl import checkpoint
from jssl.probe.records import DiagnosticsRecord, ProbeRecord, Record

Rule = Literal["accuracy", "rank_me", "alpha_req", "lidar"]
RULES: dict[Rule, str] = {
  "accuracy": "validation accuracy",
  "rank_me": "RankMe",
  "alpha_req": "alpha-ReQ",
  "lidar": "LiDAR",
}


def score(record: Record, rule: Rule) -> float | None:
  """Returns the score of a checkpoint by a rule; higher is better.

  Args:
    record: a record of the checkpoint.
    rule: "accuracy" for validation accuracy of the linear probe with all
      labels; "rank_me" (Garrido et al., ICML 2023) and "lidar" (Thilak et al.,
      ICLR 2024) for these effective ranks; "alpha_req" for minus the distance
      of the decay of the spectrum from 1 (Agrawal et al., NeurIPS 2022). All
      but the first need no labels. They are those of the backbone; RankMe's
      paper defines it on the outputs of the projector.

  Returns:
    The score; None if the record does not have it.
  """
  match record:
    case ProbeRecord(probe="linear", label_fraction=1.0):
      return record.validation_accuracy if rule == "accuracy" else None
    case DiagnosticsRecord(at="backbone"):
      value = record.values.get(rule)
      if value is None or rule != "alpha_req":
        return value
      return -abs(value - 1)
  return None


def pin_best(
  workdir: str | os.PathLike,
  records: Iterable[Record],
  *,
  rule: Rule,
  dataset: str,
  backbone: str,
  vectors: str,
) -> None:
  """Pins the best of the checkpoints that still exist, for `load_backbone`.

  Args:
    workdir: workdir of the run.
    records: records of its checkpoints, among others.
    rule: the rule that scores them.
    dataset: data set of the scores.
    backbone: the evaluated backbone, "teacher" or "student".
    vectors: features of the linear probe, for the rule "accuracy".
  """
  steps = checkpoint.steps(workdir)
  wanted = ("backbone", dataset, backbone)
  for record in records:
    value = score(record, rule)
    if (
      value is not None
      and (record.features, record.dataset, record.backbone) == wanted
      and (not isinstance(record, ProbeRecord) or record.vectors == vectors)
      and record.step in steps
    ):
      by = vectors if rule == "accuracy" else rule
      checkpoint.pin_best(
        workdir, step=record.step, score=value, features=f"{backbone}, {by}"
      )


class Choice(NamedTuple):
  """The checkpoint that a rule keeps, its score and its test accuracy.

  `cost` is the accuracy that the rule gives up against the checkpoint with the
  highest test accuracy.
  """

  rule: Rule
  step: int
  score: float
  accuracy: float
  cost: float


def choices(records: Iterable[Record], dataset: str) -> list[Choice]:
  """Returns the choice of each rule among the checkpoints that it scored.

  Only checkpoints that all rules with any score have scored are compared. Test
  accuracy is that of the linear probe with all labels.
  """
  scores: dict[Rule, dict[int, float]] = {rule: {} for rule in RULES}
  accuracy: dict[int, float] = {}
  for record in records:
    if (record.features, record.dataset) != ("backbone", dataset):
      continue
    for rule in RULES:
      value = score(record, rule)
      if value is not None:
        scores[rule][record.step] = value
        if isinstance(record, ProbeRecord):
          accuracy[record.step] = record.test_accuracy
  scored = {rule: by_step for rule, by_step in scores.items() if by_step}
  steps = set(accuracy).intersection(*scored.values())
  if len(steps) < 2:
    return []
  best = max(accuracy[step] for step in steps)
  found = []
  for rule, by_step in scored.items():
    step = max(sorted(steps), key=lambda step: by_step[step])
    found.append(
      Choice(rule, step, by_step[step], accuracy[step], best - accuracy[step])
    )
  return found
