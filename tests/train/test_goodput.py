"""What a run's clock says of its steps; see tests/test_clock.py."""

import json

from jssl.train.goodput import Goodput


def test_a_life_says_its_steps(tmp_path):
  first, second = Goodput(tmp_path), Goodput(tmp_path)
  first.begin(0)
  first.first_step_done()
  for step in (4, 8):
    first.reached(step)
    first.write()
  second.begin(6)
  second.write()
  lines = (tmp_path / "goodput.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  steps = [(row["from_step"], row["to_step"]) for row in found]
  assert steps == [(0, 8), (6, 6)]
  assert 0 < found[0]["until_first_step"] <= found[0]["seconds"]
  assert found[1]["until_first_step"] is None
