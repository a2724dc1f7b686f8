"""`jssl embed --workdir=W --source=DIR --out=FILE`.

Writes the features of images to a Parquet or .npz file, one row per image: by
the backbone of a run or of published weights, of a folder, a list of files or a
prepared set. See docs/embed.md.
"""

import sys

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run.")
_WEIGHTS = flags.DEFINE_string(
  "weights", "", "File or folder of published weights, without a run."
)
_STEP = flags.DEFINE_integer(
  "step",
  None,
  "Step of the checkpoint; default: the best by probe.select_by, or the last "
  "where nothing was probed.",
)
_STUDENT = flags.DEFINE_bool(
  "student",
  False,
  "Use the trained backbone of a method that has an averaged one.",
)
_SOURCE = flags.DEFINE_string("source", "", "Folder of images.")
_LIST = flags.DEFINE_string(
  "list", "", "Text file with a path per line, relative to its folder."
)
_DATASET = flags.DEFINE_string("dataset", "", "Name of a prepared set.")
_SPLIT = flags.DEFINE_string(
  "split", "", "Split of --dataset, such as 'test[:10%]'; default: train."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", "", "Directory of prepared sets; default: that of the run."
)
_OUT = flags.DEFINE_string(
  "out", None, "File to write, .parquet or .npz.", required=True
)
_TOKENS = flags.DEFINE_bool("tokens", False, "Write patch tokens too.")
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size",
  0,
  "Images of a batch; default: probe.batch_size of the run.",
  lower_bound=0,
)
_WORKERS = flags.DEFINE_integer(
  "workers",
  None,
  "Processes that read and decode images; default: those of the run.",
  lower_bound=0,
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Replace --out, and parts of other weights or images."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "True for each of several processes, see `jssl.runtime.distributed`.",
)


def _check_one(*given: flags.FlagHolder) -> None:
  """Raises ValueError unless one of the flags is set."""
  names = [f"--{flag.name}" for flag in given]
  found = [name for flag, name in zip(given, names, strict=True) if flag.value]
  if len(found) != 1:
    raise ValueError(
      f"expected one of {', '.join(names)}, received "
      f"{' and '.join(found) or 'none of them'}"
    )


def main(argv: list[str]) -> int:
  """Writes the file; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # Imported late, so that --help is fast.
  from jssl.checkpoint import CheckpointError
  from jssl.data.files import open_folder, open_list
  from jssl.data.open import open_source, stored_size_px
  from jssl.data.source import Source
  from jssl.embed import store
  from jssl.embed.run import Pretrained, embed
  from jssl.runtime import (
    compilation,
    distributed,
    exit_codes,
    files,
    terminal,
  )
  from jssl.runtime.paths import as_path
  from jssl.runtime.workdir import check_workdir

  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)
  compilation.use_cache()

  def open_images(backbone: Pretrained) -> Source:
    size_px = backbone.image_size_px
    channels = backbone.encoder.image_shape[-1]
    if _SOURCE.value:
      return open_folder(
        _SOURCE.value, image_size_px=size_px, channels=channels
      )
    if _LIST.value:
      return open_list(_LIST.value, image_size_px=size_px, channels=channels)
    return open_source(
      _DATASET.value,
      data_dir=_DATA_DIR.value or backbone.data_dir,
      split=_SPLIT.value or "train",
      image_size_px=stored_size_px(_DATASET.value) or size_px,
    )

  def work() -> None:
    paths = (_WEIGHTS, _SOURCE, _LIST, _DATA_DIR, _OUT)
    for flag in paths:
      files.check_expanded(f"--{flag.name}", flag.value)
    for flag in (_SOURCE, _LIST):
      files.check_local(f"--{flag.name}", flag.value)
    _check_one(_WORKDIR, _WEIGHTS)
    _check_one(_SOURCE, _LIST, _DATASET)
    for flag in (_SPLIT, _DATA_DIR):
      if flag.value and not _DATASET.value:
        raise ValueError(f"--{flag.name} needs --dataset")
    if _WORKDIR.value:
      check_workdir(_WORKDIR.value)
    if _DISTRIBUTED.value:
      distributed.initialize()
      distributed.check_same("\n".join(sys.argv[1:]), "arguments")
    else:
      distributed.check_single_process()
    # Before the weights are read.
    if distributed.is_first():
      store.check_out(as_path(_OUT.value), overwrite=_OVERWRITE.value)
    with compilation.explain_errors():
      backbone = Pretrained.load(
        _WORKDIR.value or _WEIGHTS.value,
        _STEP.value,
        teacher=False if _STUDENT.value else None,
      )
      embed(
        backbone,
        open_images(backbone),
        _OUT.value,
        tokens=_TOKENS.value,
        batch_size=_BATCH_SIZE.value,
        workers=_WORKERS.value,
        overwrite=_OVERWRITE.value,
      )

  def advice(error: Exception) -> str:
    if files.is_retryable(error):
      return "Run the same command again to resume after the finished parts."
    return ""

  return exit_codes.run_with_exit_code(
    work, (ValueError, TypeError, OSError, CheckpointError), advice=advice
  )


if __name__ == "__main__":
  app.run(main)
