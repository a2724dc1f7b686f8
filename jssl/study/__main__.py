"""`python -m jssl.study NAME --workdir=DIR`: runs that answer a question.

    python -m jssl.study methods --config=FILE --workdir=DIR [--diagnostics]
    python -m jssl.study forecast --workdir=DIR
    python -m jssl.study concentration --workdir=DIR

`methods` trains every method of a config file at one budget, probes it, and
prints one table; also DIR/methods.md and DIR/methods.json. What is complete is
not run again: the same command goes on from where it was interrupted. Any value
of the config can be set for all runs, as in `--config.train.steps=100`.

The others look at the runs that it left: whether the collapse AUC tells the
accuracy, and whether augmentations that concentrate classes (--diagnostics)
give better class means.
"""

import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable

from absl import app, flags

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "A config file with METHODS, whose get_config takes one of them. What stands "
  "after a colon is added to each: FILE:,24 gives FILE:simclr,24 and so on.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Runs go to METHOD/seed_N in it, the table beside them."
)
_METHODS = flags.DEFINE_list(
  "methods", [], "Some of the config file's METHODS; default: all."
)
_SEEDS = flags.DEFINE_integer(
  "seeds", 1, "Pretraining seeds of each method.", lower_bound=1
)

_DIAGNOSTICS = flags.DEFINE_bool(
  "diagnostics", False, "Probes also measure what features are like."
)


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags above; those of the config are left for the runs."""
  return flags.FLAGS(argv, known_only=True)


def _needed(**given: str | None) -> None:
  """Raises app.UsageError where a flag that a study needs isn't given."""
  missing = [f"--{name}" for name, value in given.items() if not value]
  if missing:
    raise app.UsageError(f"{' and '.join(missing)} must be given")


def _methods(overrides: list[str]) -> int:
  _needed(config=_CONFIG.value, workdir=_WORKDIR.value)
  from jssl.study import methods, trials

  workdir = pathlib.Path(_WORKDIR.value)
  planned = trials.plan(
    _CONFIG.value,
    workdir,
    methods=_METHODS.value,
    seeds=_SEEDS.value,
    overrides=overrides,
    diagnostics=_DIAGNOSTICS.value,
  )
  failures = trials.run(
    planned,
    environ=os.environ,
    tell=lambda line: print(line, file=sys.stderr, flush=True),
  )
  rows = methods.collect(planned, failures)
  about = methods.about(
    planned,
    command=shlex.join(["python", "-m", "jssl.study", *sys.argv[1:]]),
    environ=os.environ,
  )
  methods.write(workdir, about, rows, planned)
  print(methods.markdown(about, rows), end="")
  return 1 if any(failures) else 0


def _forecast(overrides: list[str]) -> int:
  del overrides
  _needed(workdir=_WORKDIR.value)
  from jssl.study import forecast

  workdir = pathlib.Path(_WORKDIR.value)
  print(forecast.write(workdir, forecast.collect(workdir)), end="")
  return 0


def _concentration(overrides: list[str]) -> int:
  del overrides
  _needed(workdir=_WORKDIR.value)
  from jssl.study import concentration

  workdir = pathlib.Path(_WORKDIR.value)
  print(concentration.write(workdir, concentration.collect(workdir)), end="")
  return 0


_STUDIES: dict[str, Callable[[list[str]], int]] = {
  "methods": _methods,
  "forecast": _forecast,
  "concentration": _concentration,
}


def _study(argv: list[str]) -> tuple[str, list[str]]:
  """Returns the study and the flags of the config.

  Raises:
    app.UsageError: there is no such study, or something is no flag.
  """
  study, *overrides = argv[1:] or [""]
  if study not in _STUDIES:
    raise app.UsageError(
      f"unknown study {study!r}; there is: {', '.join(_STUDIES)}"
    )
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
  study, overrides = _study(argv)
  # What follows takes seconds to import; --help shouldn't.
  import jax

  # The runs need the accelerator, and little is computed here.
  jax.config.update("jax_platforms", "cpu")
  # As Ctrl-C: the run that is under way is stopped too.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    return _STUDIES[study](overrides)
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from here", file=sys.stderr)
    return 1
  except (ValueError, TypeError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
  app.run(main, flags_parser=_parse)
