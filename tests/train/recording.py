"""`python -m jssl.train`, with a record of the examples of each step.

`workdir/examples` has an empty file for each step that was begun, by whichever
life of the run: `STEP-SHA256` of the images and labels that it saw. Empty,
since the disk may be full.
"""

import hashlib
import pathlib

import jax
from absl import app, flags

from jssl.config import command_line
from jssl.train import __main__, loop
from jssl.train.init import Program


class Recording(Program):
  """Writes down what its steps see."""

  def compile(self):
    seen = pathlib.Path(flags.FLAGS.workdir) / "examples"
    seen.mkdir(parents=True, exist_ok=True)
    compiled, done = super().compile(), None

    def step(state, batch):
      nonlocal done
      done = int(jax.device_get(state.step)) if done is None else done + 1
      digest = hashlib.sha256()
      for name in sorted(batch):
        # Those of this process, in their order.
        for shard in batch[name].addressable_shards:
          digest.update(jax.device_get(shard.data).tobytes())
      (seen / f"{done + 1}-{digest.hexdigest()}").touch()
      return compiled(state, batch)

    return step


if __name__ == "__main__":
  loop.Program = Recording
  app.run(__main__.main, flags_parser=command_line.parse_flags)
