"""`python -m jssl.report --workdir=DIR`: writes DIR/report.html.

It can be written while the training or the probe are running.
"""

import pathlib
import sys

from absl import app, flags

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run.", required=True
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "The HTML file to write; report.html in the workdir if unset."
)


def main(argv: list[str]) -> int:
  """Writes the report and prints the accuracies; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # Imported late, so that --help is fast.
  import jax

  from jssl.probe.accuracy import tables
  from jssl.probe.records import RecordFile
  from jssl.report import page
  from jssl.report.read import read
  from jssl.runtime import files, terminal

  terminal.make_output_safe()
  # A training may be using the accelerator.
  jax.config.update("jax_platforms", "cpu")
  workdir = pathlib.Path(_WORKDIR.value)
  output = pathlib.Path(_OUTPUT.value or workdir / "report.html")
  try:
    files.check_expanded("--output", _OUTPUT.value or "")
    records = RecordFile(workdir).read()
    if records and not (workdir / "config.json").exists():
      names = dict.fromkeys(record.dataset for record in records)
      shown = [table for name in names for table in tables(records, name)]
      text = page.render_records(workdir, records, shown)
    else:
      run = read(workdir)
      shown = [
        table
        for name in run.datasets
        for table in tables(run.records, name, step=run.step(name))
      ]
      text = page.render(run)
    files.write_text(output, text)
  except (ValueError, TypeError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  for table in shown:
    print(f"{table}\n")
  print(f"report: {output.absolute()}")
  return 0


if __name__ == "__main__":
  app.run(main)
