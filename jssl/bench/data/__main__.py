"""`python -m jssl.bench.data`: images a second and core, from JPEG to device.

On JPEGs that are generated with the sizes of ImageNet's, and prepared as any
folder is: the bare decoder, what the reader makes of it, the way to the
devices, all of it with several numbers of workers, and SimCLR's two views,
which are made there; and of a set that is stored at the size it is read at.
A core is a second of a processor, spent by this process or one that it started;
what else runs on the machine is not counted, but slows down caches and clocks.

`--compare --torch_python=PYTHON` also runs torchvision's DataLoader, in an
environment of its own: PYTHON is the interpreter of one that has torch and
torchvision. Linux only.
"""

import dataclasses
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

_IMAGES = flags.DEFINE_integer("images", 512, "JPEGs that are generated.")
_SIZE_PX = flags.DEFINE_integer("image_size_px", 256, "Of what is decoded.")
_VIEW_PX = flags.DEFINE_integer("view_size_px", 224, "Of a view.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images of a batch.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Of which the median is told.")
_ONLY = flags.DEFINE_list(
  "only", None, "Rows whose name begins so, beside the first; all if not given."
)
_COMPARE = flags.DEFINE_bool("compare", False, "Whether torchvision runs too.")
_TORCH_PYTHON = flags.DEFINE_string(
  "torch_python", None, "Interpreter that has torch and torchvision."
)
_JSON = flags.DEFINE_string("json", None, "File that all goes to as well.")


def _about(sizes: list[tuple[int, int]], encoded: list[bytes]) -> dict:
  import jax
  import numpy as np
  import PIL
  from PIL import features

  width, height = np.mean(sizes, axis=0)
  return {
    "command": "python -m jssl.bench.data " + " ".join(sys.argv[1:]),
    "machine": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "load": os.getloadavg()[0],
    "device": jax.devices()[0].device_kind,
    "date": time.strftime("%Y-%m-%d"),
    "images": len(encoded),
    "mean width px": float(width),
    "mean height px": float(height),
    "mean kB": float(np.mean([len(data) for data in encoded]) / 1e3),
    "pillow": PIL.__version__,
    "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
    "jax": jax.__version__,
  }


def _cell(value: Any) -> str:
  return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: list[str]) -> None:
  """Prints a table, and writes it."""
  del argv
  # What follows takes seconds to import; --help shouldn't.
  from jssl.bench.data import chain, comparison
  from jssl.bench.data.rates import table
  from jssl.data import generated
  from jssl.data.array_record import open_prepared

  versions: dict[str, str] = {}
  other: str | None = _TORCH_PYTHON.value if _COMPARE.value else None
  if _COMPARE.value and not other:
    raise app.UsageError("--compare needs --torch_python")
  if other:
    try:
      versions = comparison.torch_versions(other)
    except ValueError as error:
      sys.exit(f"error: {error}")

  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    chain.prepare_photos(root, _IMAGES.value, _SIZE_PX.value)
    source, small = (
      open_prepared(
        name,
        data_dir=str(root / "data"),
        split="train+test",
        image_size_px=_SIZE_PX.value,
      )
      for name in ("photos", "photos_small")
    )
    encoded = [p.read_bytes() for p in (root / "photos").rglob("*.jpg")]
    about = {**_about(generated.sizes_px(_IMAGES.value), encoded), **versions}
    for key, value in about.items():
      print(f"{key:16} {_cell(value)}", flush=True)
    subjects = [
      *chain.decoders(encoded, _SIZE_PX.value),
      *chain.pipelines(source, _BATCH_SIZE.value, _VIEW_PX.value),
      *chain.stored_small(small, chain.stored_files(small), _BATCH_SIZE.value),
    ]
    if other:
      subjects += comparison.torchvision_loaders(
        other,
        root / "photos",
        batch_size=_BATCH_SIZE.value,
        size_px=_SIZE_PX.value,
        view_px=_VIEW_PX.value,
      )
    chosen = [
      subject
      for i, subject in enumerate(subjects)
      if i == 0
      or not _ONLY.value
      or subject.name.startswith(tuple(_ONLY.value))
    ]
    rows: list[dict[str, Any]] = []
    for row, rates in table(chosen, _ROUNDS.value):
      if not rows:
        print("\n| " + " | ".join(row) + " |")
        print("|---" * len(row) + "|")
      print("| " + " | ".join(map(_cell, row.values())) + " |", flush=True)
      rows.append({**row, "rounds": [dataclasses.asdict(r) for r in rates]})
  if _JSON.value:
    with open(_JSON.value, "w") as file:
      json.dump({**about, "rows": rows}, file, indent=2)


if __name__ == "__main__":
  app.run(main)
