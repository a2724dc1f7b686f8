"""`jssl probe --workdir=DIR`: evaluates the checkpoints of a run.

Needs only the files of the run: during the training, later, or elsewhere.
`--config.probe.KEY=VALUE` changes a setting of the probe for this command. With
`--weights=PATH`, evaluates published weights instead; their records are added
to those of the workdir, which need not be that of a run.
"""

import shlex
import sys

from absl import app, flags, logging

from jssl.config import command_line

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run.", required=True
)
_FOLLOW = flags.DEFINE_bool(
  "follow", False, "Wait for new checkpoints until the last step of the run."
)
_DATASET = flags.DEFINE_list(
  "dataset",
  [],
  "Prepared set to probe on, or several with commas between; default: that of "
  "the run.",
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", "", "Directory of prepared sets; default: that of the run."
)
_TEST_SPLIT = flags.DEFINE_string(
  "test_split", "", "Split of --dataset to test on; default: test."
)
_WEIGHTS = flags.DEFINE_string(
  "weights", "", "File or folder of published weights to evaluate instead."
)
_NAME = flags.DEFINE_string(
  "name", "", "Name of --weights in tables; default: that of file or folder."
)
_IMAGE_SIZE_PX = flags.DEFINE_integer(
  "image_size_px",
  0,
  "Side of the images for --weights; default: that of the stored positions.",
  lower_bound=0,
)
_EXPORT = flags.DEFINE_string(
  "export",
  "",
  ".npz file to write with the features and labels of the last checkpoint.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing records.")
_DIAGNOSTICS = flags.DEFINE_bool(
  "diagnostics", False, "Measure diagnostics of the backbone and the heads too."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "True for each of several processes, see `jssl.runtime.distributed`.",
)


def main(argv: list[str]) -> int:
  """Runs the probe; returns the exit status."""
  # Imported late, so that --help is fast.
  from jssl.checkpoint import CheckpointError
  from jssl.config.build import read_config
  from jssl.probe.accuracy import transfer_table
  from jssl.probe.dataset import change_dataset, check_splits
  from jssl.probe.published import (
    PublishedWeights,
    published_config,
    run_published,
  )
  from jssl.probe.record_file import RecordFile
  from jssl.probe.runner import run
  from jssl.runtime import (
    compilation,
    distributed,
    exit_codes,
    files,
    terminal,
  )
  from jssl.runtime.workdir import check_workdir

  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)
  compilation.use_cache()

  def work() -> None:
    check_workdir(_WORKDIR.value)
    for flag in (_EXPORT, _DATA_DIR, _WEIGHTS):
      files.check_expanded(f"--{flag.name}", flag.value)
    if _DISTRIBUTED.value:
      distributed.initialize()
      distributed.check_same("\n".join(sys.argv[1:]), "arguments")
    else:
      distributed.check_single_process()
    datasets = _DATASET.value
    for one_set in (_FOLLOW, _TEST_SPLIT, _EXPORT):
      if one_set.value and len(datasets) > 1:
        raise ValueError(
          f"--{one_set.name} needs one data set, but "
          f"--dataset={','.join(datasets)} has {len(datasets)}; probe each by "
          "its own command"
        )
    without_weights = (_FOLLOW, _EXPORT, _DIAGNOSTICS)
    with_weights = (_NAME, _IMAGE_SIZE_PX)
    for option in without_weights if _WEIGHTS.value else with_weights:
      if option.value:
        needed = "no --weights" if _WEIGHTS.value else "--weights"
        raise ValueError(f"--{option.name} needs {needed}")
    published = None
    if _WEIGHTS.value:
      published = PublishedWeights(
        _WEIGHTS.value, name=_NAME.value, image_size_px=_IMAGE_SIZE_PX.value
      )
    # Before the first set is probed.
    for dataset in datasets[1:]:
      chosen = (dataset, _DATA_DIR.value, "")
      config = (
        published_config(_WORKDIR.value, published, *chosen)
        if published
        else change_dataset(read_config(_WORKDIR.value), *chosen)
      )
      check_splits(config.data)
    for dataset in datasets or [""]:
      if published:
        run_published(
          _WORKDIR.value,
          published,
          dataset=dataset,
          data_dir=_DATA_DIR.value,
          test_split=_TEST_SPLIT.value,
          overwrite=_OVERWRITE.value,
          overrides=argv[1:],
        )
      else:
        run(
          _WORKDIR.value,
          follow=_FOLLOW.value,
          dataset=dataset,
          data_dir=_DATA_DIR.value,
          test_split=_TEST_SPLIT.value,
          export=_EXPORT.value,
          overwrite=_OVERWRITE.value,
          diagnostics=_DIAGNOSTICS.value,
          overrides=argv[1:],
        )
    if len(datasets) > 1:
      records = RecordFile(_WORKDIR.value).read()
      name = published.name if published else "backbone"
      distributed.log_on_first(str(transfer_table(records, datasets, name)))
    command = shlex.join(["jssl", "report", _WORKDIR.value])
    distributed.log_on_first(f"Next: {command}")

  def advice(error: Exception) -> str:
    if files.is_retryable(error):
      return files.disk_space_advice(_WORKDIR.value)
    return ""

  return exit_codes.run_with_exit_code(
    work, (ValueError, TypeError, OSError, CheckpointError), advice=advice
  )


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
