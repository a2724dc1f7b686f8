"""`python -m jssl.study STUDY --config=FILE --workdir=DIR`: one question.

`methods` trains every objective of a config file at one budget, probes it, and
prints one table; also DIR/methods.md and DIR/methods.json. Two look at the runs
that it left and need no --config: `forecast`, whether the collapse AUC tells
the accuracy, and `concentration` (after --diagnostics), whether augmentations
that concentrate classes give better class means. `kernels` takes the kernel
regime through views, Gram matrix, closed forms and classifiers, sweeps
included, and writes DIR/kernels.json, .md and .html; `bridge` trains linear
maps of fixed kernel features against those closed forms.

What is complete is not run again: the same command goes on from where it was
interrupted. Any value of the config can be set (for all runs), as in
`--config.train.steps=100`.
"""

import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import app, flags, logging

from jssl.config import command_line

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "A config file. For methods one with METHODS, whose get_config takes one of "
  "them; what stands after a colon is added to each: FILE:,24 gives "
  "FILE:simclr,24 and so on.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Where the tables go; runs of methods go to METHOD/seed_N in it.",
)
_METHODS = flags.DEFINE_list(
  "methods", [], "Some of the config file's METHODS; default: all."
)
_SEEDS = flags.DEFINE_integer(
  "seeds", 1, "Pretraining seeds of each method.", lower_bound=1
)


_DIAGNOSTICS = flags.DEFINE_bool(
  "diagnostics", False, "Probes of methods also measure what features are like."
)


class _Called(NamedTuple):
  """What the command line says.

  Attributes:
    config: the file, "" without one.
    workdir: of the study.
    overrides: flags of the config.
    command: all of it.
  """

  config: str
  workdir: pathlib.Path
  overrides: Sequence[str]
  command: str


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _methods(called: _Called) -> int:
  # What follows takes seconds to import; --help shouldn't.
  import jax

  from jssl.study import methods, trials

  # The runs need the accelerator, and nothing is computed here.
  jax.config.update("jax_platforms", "cpu")
  planned = trials.plan(
    called.config,
    called.workdir,
    methods=_METHODS.value,
    seeds=_SEEDS.value,
    overrides=called.overrides,
    diagnostics=_DIAGNOSTICS.value,
  )
  failures = trials.run(planned, environ=os.environ, tell=_tell)
  rows = methods.collect(planned, failures)
  about = methods.about(planned, command=called.command, environ=os.environ)
  methods.write(called.workdir, about, rows, planned)
  print(methods.markdown(about, rows), end="")
  return 1 if any(failures) else 0


def _forecast(called: _Called) -> int:
  from jssl.study import forecast

  points = forecast.collect(called.workdir)
  print(forecast.write(called.workdir, points), end="")
  return 0


def _concentration(called: _Called) -> int:
  from jssl.study import concentration

  stacks = concentration.collect(called.workdir)
  print(concentration.write(called.workdir, stacks), end="")
  return 0


def _kernels(called: _Called) -> int:
  from jssl.kernel_regime.study import study
  from jssl.kernel_regime.study.setting import Setting

  logging.set_verbosity(logging.WARNING)
  config = command_line.load(called.config, called.overrides, Setting)
  written = study.run(
    config, called.workdir, command=called.command, tell=_tell
  )
  print(written.table)
  for path in written.paths:
    print(path)
  return 0 if written.complete else 1


def _bridge(called: _Called) -> int:
  from jssl.kernel_regime.study import bridge
  from jssl.kernel_regime.study.setting import Setting

  logging.set_verbosity(logging.WARNING)
  config = command_line.load(called.config, called.overrides, Setting)
  table = bridge.run(config, called.workdir, command=called.command, tell=_tell)
  print(table, end="")
  return 0


_STUDIES: dict[str, Callable[[_Called], int]] = {
  "methods": _methods,
  "forecast": _forecast,
  "concentration": _concentration,
  "kernels": _kernels,
  "bridge": _bridge,
}
_WITHOUT_CONFIG = (_forecast, _concentration)


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags above; those of the config are left for the runs."""
  return flags.FLAGS(argv, known_only=True)


def _arguments(argv: list[str]) -> tuple[str, list[str]]:
  """Returns the study, and the flags of the config.

  Raises:
    app.UsageError: no study is named, or a flag is unknown.
  """
  study, *overrides = argv[1:] or [""]
  if study not in _STUDIES:
    raise app.UsageError(
      f"unknown study {study!r}; there is: {', '.join(_STUDIES)}"
    )
  if study != "methods":
    for name in ("methods", "seeds", "diagnostics"):
      if flags.FLAGS[name].present:
        raise app.UsageError(f"--{name} is for the study of methods")
  overrides = [flag for flag in overrides if flag != "--"]
  for flag in overrides:
    if not flag.startswith("--config.") or "=" not in flag:
      raise app.UsageError(
        f"unknown argument {flag!r}; values of the config are set as in "
        "--config.train.steps=100"
      )
  return study, overrides


def main(argv: list[str]) -> int:
  """Runs the study; returns the exit status."""
  study, overrides = _arguments(argv)
  needs_config = _STUDIES[study] not in _WITHOUT_CONFIG
  if not _WORKDIR.value or (needs_config and not _CONFIG.value):
    needed = "--config and --workdir" if needs_config else "--workdir"
    raise app.UsageError(f"{needed} must be given")
  # As Ctrl-C: the run that is under way is stopped too.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  called = _Called(
    _CONFIG.value or "",
    pathlib.Path(_WORKDIR.value),
    overrides,
    shlex.join(["python", "-m", "jssl.study", *sys.argv[1:]]),
  )
  try:
    return _STUDIES[study](called)
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from here", file=sys.stderr)
    return 1
  except (ValueError, TypeError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
  app.run(main, flags_parser=_parse)
