"""`jssl train --config=FILE --workdir=DIR`: pretrains an encoder.

The same command with the same workdir resumes from the last checkpoint. Flags
set values of the config, as in `--config.optim.learning_rate=0.1`. With
`--extend`, a run continues to a larger `train.steps`.

Exit status: 0 if the run is complete or stopped by SIGTERM (see
`workdir/status.json`), 1 after an error that will recur, another one (such as
75, a full disk) if the same command can resume.
"""

import json

from absl import app, flags, logging

from jssl.config import command_line

_CONFIG = flags.DEFINE_string(
  "config", None, "Config file or name, FILE or FILE:ARG.", required=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder for config, checkpoints and metrics.",
  required=True,
)
_EXTEND = flags.DEFINE_bool(
  "extend",
  False,
  "True to continue the run of the workdir to a larger train.steps.",
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "True if this is one of several processes, see `jssl.runtime.distributed`.",
)


def main(argv: list[str]) -> int:
  """Trains; returns the exit status."""
  # These imports take seconds, which --help should not.
  from jssl.checkpoint import CheckpointError, NotSavedError
  from jssl.config.parse import to_dict
  from jssl.config.schema import Config
  from jssl.runtime import (
    compilation,
    distributed,
    exit_codes,
    files,
    terminal,
  )
  from jssl.runtime.workdir import check_workdir
  from jssl.train.loop import train

  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)
  compilation.use_cache()
  compilation.order_cpu_collectives()

  def work() -> None:
    check_workdir(_WORKDIR.value)
    config = command_line.load(_CONFIG.value, argv[1:], Config)
    if _DISTRIBUTED.value:
      distributed.initialize()
      text = json.dumps(to_dict(config), indent=2)
      distributed.check_same(text, "configs")
    else:
      distributed.check_single_process()
    if not train(config, _WORKDIR.value, extend=_EXTEND.value):
      distributed.log_on_first(
        "Stopped by SIGTERM; run the same command to resume."
      )

  def advice(error: Exception) -> str:
    if isinstance(error, NotSavedError) or files.is_retryable(error):
      return files.disk_space_advice(_WORKDIR.value)
    return ""

  return exit_codes.run_with_exit_code(
    work,
    (ValueError, TypeError, OSError, FloatingPointError, CheckpointError),
    advice=advice,
  )


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
