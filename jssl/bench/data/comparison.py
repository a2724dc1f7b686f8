"""torchvision's DataLoader, in an environment of its own."""

import functools
import json
import os
import pathlib
import subprocess
from typing import Any

from jssl.bench.data.chain import AHEAD
from jssl.bench.data.rates import Rate, Subject


def torch_versions(python: str) -> dict[str, str]:
  """Returns versions of what an interpreter has to compare with.

  Raises:
    ValueError: it isn't there, or lacks torch or torchvision.
  """
  code = (
    "import json, torch, torchvision; print(json.dumps("
    '{"torch": torch.__version__, "torchvision": torchvision.__version__}))'
  )
  try:
    done = _other_python(python, "-c", code)
  except OSError as error:
    raise ValueError(f"--torch_python={python} can't be run: {error}") from None
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise ValueError(
      f"--torch_python={python} can't import torch and torchvision ({last}); "
      "give the interpreter of an environment that has both"
    )
  return json.loads(done.stdout)


def _other_python(python: str, *args: Any) -> Any:
  # What this environment says of its packages is not for another one.
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return subprocess.run(
    [python, *map(str, args)],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


def torchvision_loaders(
  python: str,
  folder: pathlib.Path,
  *,
  batch_size: int,
  size_px: int,
  view_px: int,
) -> list[Subject]:
  """Returns torchvision's DataLoader, of squares and of two views.

  Args:
    python: see `torch_versions`.
    folder: of a folder of the JPEGs.
    batch_size: images of a batch.
    size_px: height and width of squares.
    view_px: of views.
  """
  images = len(list(folder.rglob("*.jpg")))
  # They take long.
  wanted = {"batches": images, "views": min(images, 8 * batch_size)}

  def run(what: str, workers: int) -> Rate:
    done = _other_python(
      python,
      pathlib.Path(__file__).with_name("loader.py"),
      *(folder, what, workers, batch_size, size_px, view_px, AHEAD),
      wanted[what],
    )
    if done.returncode:
      raise RuntimeError(f"torchvision's loader failed:\n{done.stderr}")
    return Rate(**json.loads(done.stdout))

  return [
    Subject(
      f"torchvision, {told}, workers: {workers}",
      functools.partial(run, what, workers),
    )
    for what, told in (
      ("batches", f"resized to {size_px} px"),
      ("views", "two views"),
    )
    for workers in (1, 2)
  ]
