"""Writes the files of a study's report."""

import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax

from jssl.runtime import files


def machine() -> str:
  """Describes this machine: cores, system and version of JAX."""
  return (
    f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, "
    f"JAX {jax.__version__}"
  )


def write(
  workdir: pathlib.Path,
  name: str,
  markdown: str,
  *,
  figures: Mapping[str, str],
  data: Any = None,
  html: str = "",
) -> None:
  """Writes NAME.md, the figures, and NAME.json and NAME.html if given.

  `figures` has SVG by the name of the file without its suffix.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  texts = {f"{name}.md": markdown, f"{name}.html": html}
  texts |= {f"{figure}.svg": svg for figure, svg in figures.items()}
  for file, text in texts.items():
    if text:
      files.write_text(workdir / file, text)
  if data is not None:
    files.write_json(workdir / f"{name}.json", data)
