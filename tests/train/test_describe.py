"""The lines that a run starts with."""

import jax
from shipped import Shapes, config

from jssl import tree
from jssl.config.build import build
from jssl.train.init import Program, describe


def test_the_first_lines_of_a_run():
  parsed = config("quickstart")
  run = build(parsed, source=Shapes(parsed.data))
  program = Program(run)
  data, model, checkpoints = describe(run, program, "W").splitlines()
  assert data == (
    "simclr on patterns: 1,048,576 images, 240 steps with batch size 256 "
    "(0.1 epochs)"
  )
  parameters = tree.size(program.abstract_state.backbone["params"])
  assert model.startswith(f"vit: {parameters:,} parameters, ")
  assert model.endswith(f"; {jax.device_count()} x cpu")
  # Five are written, fewer than would be kept.
  assert checkpoints.startswith("checkpoints: up to 5 of ")
  assert checkpoints.endswith(" MiB in W")


def test_checkpoints_of_a_long_run():
  parsed = config(
    "quickstart", **{"train.steps": 1000, "checkpoint.every_steps": 10}
  )
  run = build(parsed, source=Shapes(parsed.data))
  text = describe(run, Program(run), "W")
  # The two newest, the best, and one every 100 steps.
  assert "checkpoints: up to 13 of " in text
