"""`python -m jssl.study methods --config=FILE --workdir=DIR`: all methods.

Trains every objective of a config file at one budget, probes it, and prints
one table; also DIR/methods.md and DIR/methods.json. What is complete is not
run again: the same command goes on from where it was interrupted. Any value of
the config can be set for all runs, as in `--config.train.steps=100`.
"""

import os
import pathlib
import shlex
import signal
import sys

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

_STUDIES = ("methods",)


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags above; those of the config are left for the runs."""
  return flags.FLAGS(argv, known_only=True)


def _overrides(argv: list[str]) -> list[str]:
  """Returns the flags of the config; checks that a study is named.

  Raises:
    app.UsageError: it isn't so.
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
  return overrides


def main(argv: list[str]) -> int:
  """Runs the study; returns the exit status."""
  overrides = _overrides(argv)
  if not _CONFIG.value or not _WORKDIR.value:
    raise app.UsageError("--config and --workdir must be given")
  # What follows takes seconds to import; --help shouldn't.
  import jax

  from jssl.study import methods, trials

  # The runs need the accelerator, and nothing is computed here.
  jax.config.update("jax_platforms", "cpu")
  # As Ctrl-C: the run that is under way is stopped too.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  workdir = pathlib.Path(_WORKDIR.value)
  try:
    planned = trials.plan(
      _CONFIG.value,
      workdir,
      methods=_METHODS.value,
      seeds=_SEEDS.value,
      overrides=overrides,
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
    methods.write(workdir, about, rows)
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from here", file=sys.stderr)
    return 1
  except (ValueError, TypeError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(methods.markdown(about, rows), end="")
  return 1 if any(failures) else 0


if __name__ == "__main__":
  app.run(main, flags_parser=_parse)
