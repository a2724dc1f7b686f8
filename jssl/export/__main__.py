"""`jssl export --workdir=DIR --layout=timm --out=DIR`.

Writes the backbone of a run as a folder for another library.
"""

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run.", required=True
)
_LAYOUT = flags.DEFINE_enum(
  "layout",
  None,
  ["timm", "hf", "torchvision", "stablehlo"],
  "Library that loads the folder; hf: transformers by Hugging Face; stablehlo: "
  "a program of jax.export that contains the weights.",
  required=True,
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder to write, new or empty.", required=True
)
_STEP = flags.DEFINE_integer(
  "step",
  None,
  "Step of the checkpoint; default: the best by the probe's validation "
  "accuracy, or the last where nothing was probed.",
)
_STUDENT = flags.DEFINE_bool(
  "student",
  False,
  "Write the trained backbone of a method that has an averaged one.",
)


def main(argv: list[str]) -> int:
  """Writes the folder; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # Imported late, so that --help is fast.
  import jax

  from jssl.checkpoint import CheckpointError
  from jssl.export.write import export
  from jssl.runtime import exit_codes, files, terminal
  from jssl.runtime.workdir import check_workdir

  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)
  # A training may be using the accelerator.
  jax.config.update("jax_platforms", "cpu")

  def work() -> None:
    check_workdir(_WORKDIR.value)
    files.check_expanded("--out", _OUT.value)
    print(
      export(
        *(_WORKDIR.value, _OUT.value),
        layout=_LAYOUT.value,
        step=_STEP.value,
        student=_STUDENT.value,
      )
    )

  return exit_codes.run_with_exit_code(
    work, (ValueError, TypeError, OSError, CheckpointError)
  )


if __name__ == "__main__":
  app.run(main)
