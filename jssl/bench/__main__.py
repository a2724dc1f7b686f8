"""`python -m jssl.bench NAME`: runs one benchmark."""

import pathlib
import runpy
import sys


def main() -> None:
  """Runs the benchmark that the command line names."""
  folder = pathlib.Path(__file__).parent
  names = sorted(p.stem for p in folder.iterdir() if p.stem[0] != "_")
  if len(sys.argv) < 2 or sys.argv[1] not in names:
    sys.exit(f"usage: python -m jssl.bench {{{','.join(names)}}} ...")
  name = sys.argv.pop(1)
  runpy.run_module(f"jssl.bench.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
