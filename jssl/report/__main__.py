"""`jssl report WORKDIR ...`: writes WORKDIR/report.html.

Of several runs it writes a comparison. Runs may be in progress.
"""

import sys

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run, as the first argument."
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "HTML file to write; default: report.html in the workdir, or "
  "comparison.html here for several runs.",
)


def main(argv: list[str]) -> int:
  """Writes the report and prints the accuracies; returns the exit status."""
  workdirs = argv[1:]
  if _WORKDIR.value:
    if workdirs:
      raise app.UsageError(
        f"expected --workdir or arguments, received --workdir={_WORKDIR.value} "
        f"and {' '.join(workdirs)}; name all runs of a comparison as arguments"
      )
    workdirs = [_WORKDIR.value]
  if not workdirs:
    raise app.UsageError("expected at least one workdir: jssl report WORKDIR")
  # Imported late, so that --help is fast.
  import jax

  from jssl.probe.accuracy import AccuracyTable
  from jssl.probe.accuracy import tables as tables_of
  from jssl.probe.record_file import RecordFile
  from jssl.report import comparison, page
  from jssl.report.read import read
  from jssl.runtime import files, terminal
  from jssl.runtime.paths import Path, as_path

  def made(workdir: Path) -> tuple[str, list[AccuracyTable]]:
    """Returns the page of one workdir, and its tables."""
    records = RecordFile(workdir).read()
    if records and not (workdir / "config.json").exists():
      names = dict.fromkeys(record.dataset for record in records)
      shown = [table for name in names for table in tables_of(records, name)]
      return page.render_records(workdir, records, shown), shown
    run = read(workdir)
    shown = [
      table
      for name in run.datasets
      for table in tables_of(run.records, name, step=run.step(name))
    ]
    return page.render(run), shown

  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)
  # A training may be using the accelerator.
  jax.config.update("jax_platforms", "cpu")
  first, *others = map(as_path, workdirs)
  print(f"Reading {', '.join(workdirs)} and drawing figures.", flush=True)
  default = "comparison.html" if others else first / "report.html"
  output = as_path(_OUTPUT.value or default)
  try:
    files.check_expanded("--output", _OUTPUT.value or "")
    if others:
      runs = [read(workdir) for workdir in (first, *others)]
      text, shown = comparison.render(runs), comparison.tables(runs)
    else:
      text, shown = made(first)
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
