"""`python -m jssl.preflight --config=FILE --target=v5e:16x16`: does it fit.

Compiles the config's train step, augmentation included, and the probe's
features, for devices that are not there, on this machine's CPU, and says what a
device needs: memory and what fills it, FLOPs, traffic, collectives, the bound
on the speed. `--target` is a TPU topology (v5e:16x16; 2xv5e:16x16, two
slices), GPUs (h100:8; h100:2x8, two nodes) or cpu:8.

Exit status: 0 it fits, 3 it doesn't, 1 there is something wrong (of a sweep: a
point can't be run). Where it doesn't fit, changes are tried until one does
(`--nosuggest` leaves that out).
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from jssl.config import command_line
from jssl.preflight import targets

_CONFIG = flags.DEFINE_string(
  "config", None, "Config file, FILE or FILE:ARG.", required=True
)
_TARGET = flags.DEFINE_string(
  "target", None, "Devices, as v5e:16x16, h100:8 or cpu:8.", required=True
)
_SUGGEST = flags.DEFINE_bool(
  "suggest", True, "Whether to look for changes where it doesn't fit."
)
_SWEEP = flags.DEFINE_string(
  "sweep",
  None,
  "Compile the train step at several sizes instead: KEY=V1,V2,... as "
  "data.batch_size=1024,2048, or targets, v5e:2x4,v5e:16x16, with as many "
  "images on each device as on --target.",
)
_JSON = flags.DEFINE_string("json", None, "Also write it here, as data.")
_HTML = flags.DEFINE_string("html", None, "Also write it here, as a page.")

_FITS, _WRONG, _TOO_LARGE = 0, 1, 3


def _write(found: dict[str, Any], page: Callable[[], str]) -> None:
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")
  if _HTML.value:
    pathlib.Path(_HTML.value).write_text(page(), encoding="utf-8")


def _run(overrides: list[str]) -> int:
  target = targets.target(_TARGET.value)
  target.prepare()
  from jssl.config.schema import Config
  from jssl.preflight import text_report
  from jssl.preflight.changes import suggest
  from jssl.preflight.check import check
  from jssl.preflight.html_report import html, sweep_html
  from jssl.preflight.sweep import sizes, sweep

  def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

  config = command_line.load(_CONFIG.value, overrides, Config)
  command = shlex.join(["python", "-m", "jssl.preflight", *sys.argv[1:]])
  if _SWEEP.value:
    wanted = sizes(_SWEEP.value, target)
    target.prepare(*(size.target for size in wanted))
    points = sweep(config, target, wanted, tell)
    print(text_report.sweep_text(points), end="")
    _write(
      {"command": command, "points": text_report.sweep_data(points)},
      lambda: sweep_html(points, config=config, command=command),
    )
    found = [point.result for point in points]
    if not all(found):
      return _WRONG
    return _FITS if all(one.fits for one in found if one) else _TOO_LARGE
  result = check(config, target)
  tried = []
  if not result.fits and _SUGGEST.value:
    tell("it doesn't fit; changes are compiled")
    tried = suggest(config, target, result, tell)
  print(text_report.text(result, tried), end="")
  _write(
    {"command": command, **text_report.data(result, tried)},
    lambda: html(result, tried, config=config, command=command),
  )
  return _FITS if result.fits else _TOO_LARGE


def main(argv: list[str]) -> int:
  """Prints what a run needs; returns the exit status."""
  logging.set_verbosity(logging.WARNING)
  try:
    return _run(argv[1:])
  except (ValueError, TypeError, OSError, RuntimeError) as error:
    print(f"error: {error}", file=sys.stderr)
    return _WRONG


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
