"""`jssl study STUDY --workdir=DIR [--config=FILE]`: runs a study.

Studies with --config:
  methods        trains and probes all methods of a config file at one budget
  kernels        kernel regime: closed forms and classifiers on a data set
  bridge         kernel regime: trained linear maps against closed forms
Studies of the runs that `methods` left in the same workdir:
  forecast       predicts accuracy from the collapse AUC
  concentration  compares augmentations; needs `methods --diagnostics`

Tables and figures go to DIR. Finished work is not repeated: the same command
resumes an interrupted study. Values of the config can be set for all runs, as
in `--config.train.steps=100`.
"""

import functools
import importlib
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import app, flags, logging

from jssl.config import command_line
from jssl.runtime import terminal
from jssl.runtime.workdir import check_workdir

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "Config file. For `methods` a file with METHODS, whose get_config takes one "
  "of them. If it takes epochs too, FILE:,24 is FILE:simclr,24 etc.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the study. Required."
)
_METHODS = flags.DEFINE_list(
  "methods", [], "Subset of METHODS for `methods`; default: all."
)
_SEEDS = flags.DEFINE_integer(
  "seeds", 1, "Pretraining seeds per method for `methods`.", lower_bound=1
)
_DIAGNOSTICS = flags.DEFINE_bool(
  "diagnostics", False, "`methods` also measures diagnostics of the features."
)


class _Arguments(NamedTuple):
  """Command line of a study."""

  config: str
  workdir: pathlib.Path
  overrides: Sequence[str]
  command: str


# Text to print, and True if all parts of the study succeeded.
_Result = tuple[str, bool]


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


# Functions import their study, because imports take seconds.


def _methods(arguments: _Arguments) -> _Result:
  import jax

  from jssl.study import methods, methods_report, trials

  # Leaves accelerators to the processes of the trials.
  jax.config.update("jax_platforms", "cpu")
  config, workdir, overrides, command = arguments
  planned = trials.plan(
    config,
    workdir,
    methods=_METHODS.value,
    seeds=_SEEDS.value,
    overrides=overrides,
    diagnostics=_DIAGNOSTICS.value,
  )
  failures = trials.run(planned, environ=os.environ, log=_log)
  rows = methods.collect(planned, failures)
  about = methods_report.about(planned, command=command, environ=os.environ)
  text = methods_report.write(workdir, about, rows, planned)
  return text, not any(failures)


def _of_runs(name: str, arguments: _Arguments) -> _Result:
  study = importlib.import_module(f"jssl.study.{name}")
  found = study.collect(arguments.workdir)
  return study.write(arguments.workdir, found), True


def _kernel_regime(name: str, arguments: _Arguments) -> _Result:
  from jssl.kernel_regime.study.config import KernelStudy

  study = importlib.import_module(f"jssl.kernel_regime.study.{name}")
  spec, workdir, overrides, command = arguments
  config = command_line.load(spec, overrides, KernelStudy)
  return study.run(config, workdir, command=command, log=_log)


_WITH_CONFIG: dict[str, Callable[[_Arguments], _Result]] = {
  "methods": _methods,
  "kernels": functools.partial(_kernel_regime, "run"),
  "bridge": functools.partial(_kernel_regime, "bridge"),
}
_STUDIES: dict[str, Callable[[_Arguments], _Result]] = {
  **_WITH_CONFIG,
  "forecast": functools.partial(_of_runs, "forecast"),
  "concentration": functools.partial(_of_runs, "concentration"),
}


def _check_usage(argv: Sequence[str]) -> str:
  """Returns the name of the study; app.UsageError if flags do not fit it."""
  positional = [arg for arg in argv[1:] if not arg.startswith("--config.")]
  if len(positional) != 1 or positional[0] not in _STUDIES:
    raise app.UsageError(
      f"expected one study of {', '.join(_STUDIES)}; got "
      f"{' '.join(positional) or 'none'}"
    )
  study = positional[0]
  for flag in (_METHODS, _SEEDS, _DIAGNOSTICS):
    if study != "methods" and flag.present:
      raise app.UsageError(f"--{flag.name} is a flag of `methods`")
  if not _WORKDIR.value:
    raise app.UsageError("--workdir is required")
  if study in _WITH_CONFIG and not _CONFIG.value:
    raise app.UsageError(f"--config is required for `{study}`")
  return study


def main(argv: list[str]) -> int:
  """Runs the study; returns the exit status."""
  study = _check_usage(argv)
  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)
  # SIGTERM acts like Ctrl-C, so that the process of a trial is stopped too.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  arguments = _Arguments(
    _CONFIG.value or "",
    pathlib.Path(_WORKDIR.value or ""),
    [arg for arg in argv[1:] if arg.startswith("--config.")],
    shlex.join(["python", "-m", "jssl.study", *sys.argv[1:]]),
  )
  try:
    check_workdir(arguments.workdir, local=True)
    text, succeeded = _STUDIES[study](arguments)
  except KeyboardInterrupt:
    _log("Interrupted. Run the same command to resume.")
    return 1
  except (ValueError, TypeError, OSError) as error:
    _log(f"error: {error}")
    return 1
  print(text, end="")
  return 0 if succeeded else 1


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
