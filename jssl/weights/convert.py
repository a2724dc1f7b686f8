"""Converts a file of PyTorch to safetensors.

This file needs torch and safetensors, but not jssl: `python convert.py IN.pth
OUT.safetensors` works wherever these are installed.
"""

import argparse
import os
import pathlib
import pickle
import sys
from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN_NAMES = 10


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the leaves of nested dicts by names such as "model.norm.weight"."""
  if isinstance(value, Mapping):
    for key, child in value.items():
      yield from flatten(child, f"{name}.{key}" if name else str(key))
  else:
    yield name, value


def convert(source: str | os.PathLike, target: str | os.PathLike) -> str:
  """Writes the tensors of a file of PyTorch as safetensors.

  Reads with `torch.load(weights_only=True)`, which runs no code of the file.
  Values that are not tensors are dropped.

  Args:
    source: the file of PyTorch.
    target: the safetensors file to write, which must not exist.

  Returns:
    A line for the log: the number of tensors, and the dropped names.

  Raises:
    ImportError: without torch; says how to convert without it.
    FileNotFoundError: if `source` does not exist.
    FileExistsError: if `target` exists.
    ValueError: if torch refuses the file, or it has no tensors.
  """
  source, target = pathlib.Path(source), pathlib.Path(target)
  if not source.is_file():
    raise FileNotFoundError(f"{source} does not exist")
  if target.exists():
    raise FileExistsError(f"{target} exists: expected the name of a new file")
  try:
    import torch
    from safetensors.torch import save_file
  except ImportError as error:
    raise ImportError(
      f"{error}: install it with `pip install 'jssl[torch]'`, or run this in a "
      "Python with torch and safetensors, which need not have jssl: "
      f"`python {pathlib.Path(__file__)} {source} {target}`"
    ) from error
  tensors, dropped = {}, []
  seen: set[int] = set()
  for name, value in flatten(_load(source)):
    if not torch.is_tensor(value):
      dropped.append(name)
    elif name in tensors:
      raise ValueError(f"{source} has two tensors {name}; rename one of them")
    else:
      value = value.detach()
      storage = value.untyped_storage().data_ptr()
      # Each tensor of a safetensors file has bytes of its own.
      tensors[name] = value.clone() if storage in seen else value
      tensors[name] = tensors[name].contiguous()
      seen.add(storage)
  if not tensors:
    raise ValueError(f"{source} has no tensors, only {', '.join(dropped[:10])}")
  temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
  try:
    save_file(tensors, temporary, {"format": "pt"})
    temporary.replace(target)
  finally:
    temporary.unlink(missing_ok=True)
  shown = ", ".join(dropped[:_SHOWN_NAMES]) or "nothing"
  more = len(dropped) - _SHOWN_NAMES
  shown += f" and {more} more" if more > 0 else ""
  return f"Wrote {len(tensors)} tensors to {target}; dropped {shown}."


def _load(source: pathlib.Path) -> Any:
  import torch

  try:
    # Official training files have their arguments beside the tensors.
    with torch.serialization.safe_globals([argparse.Namespace]):
      return torch.load(source, map_location="cpu", weights_only=True)
  except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
    # The last line has the reason; lines before suggest weights_only=False.
    lines = [line for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Check the docum")]
    _, _, reason = (lines or [type(error).__name__])[-1].rpartition("error: ")
    reason, _, _ = reason.partition(" Please use ")
    raise ValueError(
      f"{source}: torch.load(weights_only=True) refuses it; save only its "
      f"state_dict ({reason})"
    ) from error


if __name__ == "__main__":
  print(convert(*sys.argv[1:]))
