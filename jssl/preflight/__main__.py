"""Checks whether a config fits on a target: `jssl preflight`.

Compiles the train step and the probe's feature extraction on this machine's CPU
for devices that need not be available. Reports memory, FLOPs, HBM traffic,
collectives and the roofline bound per device.

    jssl preflight --config=FILE --target=v5e:16x16

`--target` is a TPU topology (v5e:16x16; 2xv5e:16x16 for two slices), GPUs
(h100:8; h100:2x8 for two nodes) or CPU devices (cpu:8). If the config does not
fit, changes are compiled until one fits, unless `--nosuggest` is given.

Exit status: 0 if the config fits, 3 if it does not, 1 on errors, including an
invalid point of a sweep.
"""

import json
import pathlib
import shlex
import sys

from absl import app, flags, logging

from jssl.config import command_line
from jssl.preflight import targets
from jssl.runtime import files, terminal

_CONFIG = flags.DEFINE_string(
  "config", None, "Config file or name, FILE or FILE:ARG.", required=True
)
_TARGET = flags.DEFINE_string(
  "target", None, "Devices: v5e:16x16, h100:8 or cpu:8.", required=True
)
_SUGGEST = flags.DEFINE_bool(
  "suggest", True, "Search for changes with which the config fits."
)
_SWEEP = flags.DEFINE_string(
  "sweep",
  None,
  "Compile only the train step, at several sizes: KEY=V1,V2,... with "
  "integers, as data.batch_size=1024,2048; or targets, v5e:2x4,v5e:16x16, with "
  "the images per device of --target.",
)
_JSON = flags.DEFINE_string("json", None, "Write the report as JSON here.")
_HTML = flags.DEFINE_string("html", None, "Write the report as HTML here.")

_FITS, _ERROR, _DOES_NOT_FIT = 0, 1, 3


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _run(overrides: list[str]) -> int:
  for flag in (_JSON, _HTML):
    files.check_expanded(f"--{flag.name}", flag.value or "")
  target = targets.target(_TARGET.value)
  target.prepare()
  from jssl.config.schema import Config
  from jssl.preflight import html_report, text_report
  from jssl.preflight.check import check, sizes, suggest, sweep

  config = command_line.load(_CONFIG.value, overrides, Config)
  attempts, points = [], []
  if _SWEEP.value:
    requested = sizes(_SWEEP.value, config, target)
    target.prepare(*(size.target for size in requested))
    points = sweep(config, requested, _log)
    title, sections = "sweep", [text_report.sweep_section(points)]
    data = {"points": text_report.sweep_data(points)}
  else:
    result = check(config, target)
    if not result.fits and _SUGGEST.value:
      _log("The config does not fit. Compiling changes.")
      attempts = suggest(config, target, result, _log)
    title = text_report.title(result)
    sections = text_report.sections(result)
    data = text_report.data(result, attempts)
  suggestion = text_report.suggestion(attempts)
  print(text_report.text(title, sections, suggestion), end="")
  command = shlex.join(["python", "-m", "jssl.preflight", *sys.argv[1:]])
  if _JSON.value:
    text = json.dumps({"command": command, **data}, indent=2)
    pathlib.Path(_JSON.value).write_text(text + "\n")
  if _HTML.value:
    page = html_report.html(
      f"Preflight: {title}",
      sections,
      config=config,
      command=command,
      suggestion=suggestion,
      points=points,
    )
    pathlib.Path(_HTML.value).write_text(page, encoding="utf-8")
  if any(point.error for point in points):
    return _ERROR
  fits = all(p.fits for p in points) if points else result.fits
  return _FITS if fits else _DOES_NOT_FIT


def main(argv: list[str]) -> int:
  """Prints the report; returns the exit status."""
  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)
  try:
    return _run(argv[1:])
  except (ValueError, TypeError, OSError, RuntimeError) as error:
    print(f"error: {error}", file=sys.stderr)
    return _ERROR


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
