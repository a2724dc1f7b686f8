"""`python -m jssl.report --workdir=DIR`: writes DIR/report.html.

The page needs no network and nothing beside it. It can be written while the
training or the probe go on.
"""

import pathlib
import sys

from absl import app, flags

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Of the run to report.", required=True
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "The HTML file to write; report.html in the workdir if unset."
)


def main(argv: list[str]) -> int:
  """Writes the page and prints the table; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # What follows takes seconds to import; --help shouldn't.
  import jax

  from jssl.report import page, table
  from jssl.report.read import read

  # A training may hold the accelerator, and there is little to compute.
  jax.config.update("jax_platforms", "cpu")
  output = pathlib.Path(
    _OUTPUT.value or pathlib.Path(_WORKDIR.value) / "report.html"
  )
  try:
    run = read(_WORKDIR.value)
    text = page.render(run)
    temporary = output.with_name(output.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(output)
  except (ValueError, TypeError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  for dataset in run.datasets:
    print(f"{dataset}\n{table.as_text(table.rows(run, dataset))}\n")
  print(f"report: {output.absolute()}")
  return 0


if __name__ == "__main__":
  app.run(main)
