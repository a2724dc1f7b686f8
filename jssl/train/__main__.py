"""`python -m jssl.train --config=FILE --workdir=DIR`: pretrains an encoder.

Run it again with the same workdir and it goes on from the last checkpoint.
Any value of the config can be set on the command line, as in
`--config.optim.learning_rate=0.1`.

Exit status 0: complete, or stopped by SIGTERM (`status.json` says which), 1: an
error that would come back, as of the config; another (as 75: no room for the
last checkpoint): started again it goes on.
"""

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config file, see configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Where config, checkpoints and metrics of the run go.",
  required=True,
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "Whether this is one of several processes, see `jssl.runtime.distributed`.",
)


def main(argv: list[str]) -> int:
  """Trains; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # What follows takes seconds to import; --help shouldn't.
  from jssl.checkpoint import CheckpointError, NotSavedError
  from jssl.runtime import compilation, distributed, exit_codes, files
  from jssl.runtime.workdir import check_workdir
  from jssl.train.loop import train

  logging.set_verbosity(logging.WARNING)
  compilation.use_cache()
  compilation.order_cpu_collectives()

  def work() -> None:
    check_workdir(_WORKDIR.value)
    if _DISTRIBUTED.value:
      distributed.initialize()
      distributed.check_same(_CONFIG.value.to_json(indent=2), "configs")
    else:
      distributed.check_single_process()
    if not train(_CONFIG.value, _WORKDIR.value):
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
  flags.mark_flag_as_required("config")
  app.run(main)
