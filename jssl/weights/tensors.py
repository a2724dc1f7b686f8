"""Tensors of safetensors files, each read when it is used."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jssl.runtime.files import fetch
from jssl.runtime.paths import Path, as_path

_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SUFFIX = ".safetensors"
_FLOATS = ("F64", "F32", "F16", "BF16")
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")


class Tensors(Mapping[str, np.ndarray]):
  """Tensors of one file, of several by an index, or of a folder, by name.

  Attributes:
    path: the file or folder.
    config: values of `config.json` and `preprocessor_config.json` beside the
      file; {} without these.
    metadata: text that the file stores beside its tensors.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens the files and reads names and shapes.

    Raises:
      FileNotFoundError: if there is no such file, or none in the folder.
      ValueError: if a file is damaged or not of safetensors.
    """
    self.path = as_path(path)
    files, index = _find(self.path)
    folder = files[0].parent
    self.config: dict[str, Any] = {}
    # A renamed file may lie beside the description of another model.
    if self.path.is_dir() or files[0].name == _FILE or index:
      for name in ("preprocessor_config.json", "config.json"):
        self.config |= _read_json(folder / name)
    self._files = {file: _open(file) for file in files}
    self.metadata: dict[str, str] = {}
    self._where: dict[str, Any] = {}
    for opened in self._files.values():
      self.metadata |= opened.metadata() or {}
      self._where |= dict.fromkeys(opened.keys(), opened)
    if missing := sorted(set(index) - set(self._where)):
      raise ValueError(
        f"{self.path}: the index names tensors that no file has, such as "
        f"{missing[0]}; download the files again"
      )

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor without reading it.

    Raises:
      ValueError: if there is no such tensor.
    """
    return tuple(self._slice(name).get_shape())

  def _slice(self, name: str) -> Any:
    if name not in self._where:
      raise ValueError(f"{self.path}: expected a tensor {name}, found none")
    return self._where[name].get_slice(name)

  def __getitem__(self, name: str) -> np.ndarray:
    """Reads a tensor, in float32 unless it is in float64.

    Raises:
      ValueError: if there is no such tensor, or its dtype is not a float.
    """
    kind = self._slice(name).get_dtype()
    if kind not in _FLOATS:
      raise ValueError(
        f"{self.path}: {name} has dtype {kind}: expected one of "
        f"{', '.join(_FLOATS)}; quantised weights cannot be read"
      )
    value = self._where[name].get_tensor(name)
    small = value.dtype in (np.float16, ml_dtypes.bfloat16)
    return value.astype(np.float32) if small else value

  def __contains__(self, name: object) -> bool:
    """True if there is a tensor of this name."""
    return name in self._where

  def __iter__(self) -> Iterator[str]:
    """Iterates over names."""
    return iter(self._where)

  def __len__(self) -> int:
    """Returns the number of tensors."""
    return len(self._where)


def _find(path: Path) -> tuple[list[Path], dict[str, str]]:
  """Returns the files of a path, and the file names by tensor of an index."""
  if path.suffix in _PICKLES:
    raise ValueError(
      f"{path}: expected a safetensors file; convert a file of PyTorch by "
      f"`jssl weights convert {path} {path.with_suffix(_SUFFIX)}`"
    )
  if path.is_dir():
    inside = [path / _FILE, path / _INDEX]
    inside = [file for file in inside if file.exists()]
    inside = inside or sorted(path.glob(f"*{_SUFFIX}"))
    if len(inside) != 1:
      raise FileNotFoundError(
        f"{path} has {len(inside)} {_SUFFIX} files: expected {_FILE}, {_INDEX} "
        "or a single file; `jssl weights convert` makes one of a PyTorch file"
      )
    (path,) = inside
  if not path.name.endswith(".index.json"):
    return [path], {}
  index = _read_json(path).get("weight_map", {})
  if not index:
    raise ValueError(f"{path}: expected an index with a `weight_map`")
  return sorted({path.parent / name for name in index.values()}), index


def _read_json(path: Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise ValueError(f"{path}: expected JSON, received {error}") from error
  return value if isinstance(value, dict) else {}


def _open(path: Path) -> Any:
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist")
  try:
    return safe_open(fetch(path.parent, [path.name]) / path.name, "numpy")
  except (SafetensorError, OSError) as error:
    with path.open("rb") as file:
      start = file.read(2)
    # A zip archive or a pickle, whatever its name is.
    hint = "expected a safetensors file; download it again if it is damaged"
    if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
      hint = "it is a pickle, not safetensors: see `jssl weights convert`"
    raise ValueError(f"{path}: {hint} ({error})") from error
