"""`python -m jssl.bench NAME`: times a part of the library.

Prints a Markdown table; --json=FILE writes it with every measurement.
"""

import argparse
import importlib
import shlex
import sys

from jssl.runtime import files, terminal

BENCHES = {
  "losses": "fused operations of the losses: time, memory, communication",
  "augment": "views of a batch on the device",
  "step": "one compiled training step",
  "loop": "time of the training loop outside the compiled step",
  "data": "images per second and core, from JPEG to device",
  "weights": "host memory of reading published weights onto devices",
  "probe": "linear probe, compared with scikit-learn",
  "embed": "features of a prepared set: rate and peak memory",
  "diagnostics": "streaming singular values, compared with a full SVD",
  "kernel_regime": "Gram matrices and solvers of the kernel regime",
}


def main() -> None:
  """Runs the benchmark that the command line names."""
  terminal.make_output_safe()
  name = sys.argv[1] if len(sys.argv) > 1 else "--help"
  if name not in BENCHES:
    names = "\n".join(f"  {key:14} {text}" for key, text in BENCHES.items())
    usage = f"{__doc__}\nBenchmarks:\n{names}\n\nFlags: NAME --help"
    if name not in ("-h", "--help"):
      sys.exit(f"error: unknown benchmark {name!r}\n\n{usage}")
    print(usage)
    return
  bench = importlib.import_module(f"jssl.bench.{name}")
  parser = argparse.ArgumentParser(
    f"jssl.bench {name}",
    description=bench.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  for flag, (default, text) in {**bench.FLAGS, "json": ("", "file")}.items():
    parser.add_argument(
      f"--{flag}",
      type=type(default),
      default=default,
      help=f"{text} (default: {default!r})",
    )
  args, overrides = parser.parse_known_args(sys.argv[2:])
  if hasattr(args, "config"):
    args.overrides = overrides
  elif overrides:
    parser.error(f"unexpected arguments: {' '.join(overrides)}")

  from jssl.bench import harness

  try:
    files.check_expanded("--json", args.json)
    report = bench.run(args)
  except (ValueError, TypeError, OSError) as error:
    sys.exit(f"error: {error}")
  command = shlex.join(["python", "-m", "jssl.bench", *sys.argv[1:]])
  harness.publish(report, command, args.json)


if __name__ == "__main__":
  main()
