"""Where the time of a run goes, by the clock of its first process.

Steps are dispatched ahead of the device: what waits for them counts as step,
wherever it is, and input is what the loop waited for a batch, which a device
that is still busy doesn't feel. So the shares are those of the loop: input and
checkpoint bound from above what they cost.
"""

import os
import pathlib
from typing import Any

from jssl.runtime.goodput import Clock

KINDS = ("restore", "step", "input", "checkpoint")
NAME = "goodput.jsonl"


class Goodput(Clock):
  """The clock of one life of a run; a run that is taken up has several.

  A row of `workdir/goodput.jsonl` has the steps of a life besides, and seconds
  until the first of them was done. It is rewritten at each save and each logged
  step, so what the next life has to do again shows.
  """

  def __init__(self, workdir: str | os.PathLike):
    """Starts the clock."""
    super().__init__(pathlib.Path(workdir) / NAME, KINDS)
    self._until_first_step: float | None = None
    self._from_step = self._to_step = 0

  def begin(self, step: int) -> None:
    """Says from which step this life goes on."""
    self._from_step = self._to_step = step

  def reached(self, step: int) -> None:
    """Says how many steps of the run are done, or on their way."""
    self._to_step = step

  def first_step_done(self) -> None:
    """Says that the first step is done, not only dispatched."""
    self._until_first_step = self.seconds()

  def row(self) -> dict[str, Any]:
    """Returns what is known now."""
    return {
      "from_step": self._from_step,
      "to_step": self._to_step,
      **super().row(),
      "until_first_step": self._until_first_step,
    }
