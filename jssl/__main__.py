"""The `jssl` command: `jssl train ...` is `python -m jssl.train ...`."""

import ast
import importlib.util
import pathlib
import runpy
import shutil
import sys

from jssl.runtime import shipped, terminal

_COMMANDS = {
  "train": ("jssl.train", "Pretrain an encoder."),
  "probe": ("jssl.probe", "Evaluate the checkpoints of a run."),
  "embed": ("jssl.embed", "Write the features of images to a file."),
  "neighbours": ("jssl.embed.neighbours", "Find the images most like one."),
  "report": ("jssl.report", "Write an HTML report of a run."),
  "export": ("jssl.export", "Write a backbone for another library."),
  "weights": ("jssl.weights", "Show or convert a file of weights."),
  "prepare": ("jssl.data.prepare", "Write a data set to disk."),
  "stats": ("jssl.data.stats", "Measure mean and deviation of pixels."),
  "preflight": ("jssl.preflight", "Estimate memory and speed on a target."),
  "study": ("jssl.study", "Run a study over several configs or runs."),
  "bench": ("jssl.bench", "Time a part of the library."),
}


def _usage() -> str:
  about = {name: text for name, (_, text) in _COMMANDS.items()}
  about["configs"] = "List the shipped configs, or copy one."
  lines = [f"  {name:10} {text}" for name, text in about.items()]
  return "\n".join(
    [
      "usage: jssl COMMAND ...",
      "",
      *lines,
      "",
      "`jssl COMMAND --help` lists the flags of a command. Example:",
      "",
      "  jssl train --config=quickstart --workdir=W",
      "  jssl probe --workdir=W",
      "  jssl report W",
    ]
  )


def _summary(path: pathlib.Path) -> str:
  docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
  return docstring.partition("\n")[0]


def _with_siblings(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns a config and the shipped configs that it loads by file name."""
  constants = {
    node.value
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant)
  }
  siblings = [p for p in path.parent.glob("*.py") if p.name in constants]
  return [path, *sorted(siblings)]


def _copy(source: pathlib.Path | None, name: str, folder: str = ".") -> int:
  if source is None:
    print(
      f"error: unknown config {name!r}; `jssl configs` lists them",
      file=sys.stderr,
    )
    return 1
  paths = _with_siblings(source)
  targets = [pathlib.Path(folder, path.name) for path in paths]
  if existing := [str(target) for target in targets if target.exists()]:
    print(
      f"error: {', '.join(existing)} exists; name another folder",
      file=sys.stderr,
    )
    return 1
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  for path, target in zip(paths, targets, strict=True):
    shutil.copyfile(path, target)
    print(target)
  return 0


def configs(arguments: list[str]) -> int:
  """Lists the shipped configs, or copies one; returns the exit status.

  Args:
    arguments: `[]`, or `["copy", NAME]` with an optional folder.
  """
  paths = shipped.configs()
  match arguments:
    case []:
      width = max(map(len, paths))
      for name, path in paths.items():
        print(f"{name:{width}}  {_summary(path)}")
      return 0
    case ["copy", name, *folder] if len(folder) <= 1:
      return _copy(paths.get(name.removesuffix(".py")), name, *folder)
  print("usage: jssl configs [copy NAME [FOLDER]]", file=sys.stderr)
  return 0 if arguments in (["--help"], ["-h"]) else 2


def main() -> int:
  """Runs the command that `sys.argv` names; returns the exit status."""
  terminal.make_output_safe()
  command, *arguments = sys.argv[1:] or ["--help"]
  if command in ("--help", "-h", "help"):
    print(_usage())
    return 0
  if command == "configs":
    return configs(arguments)
  if command not in _COMMANDS:
    print(f"error: unknown command {command!r}\n\n{_usage()}", file=sys.stderr)
    return 2
  module, _ = _COMMANDS[command]
  sys.argv = [f"jssl {command}", *arguments]
  try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  except ModuleNotFoundError as error:
    if importlib.util.find_spec("flax"):
      raise
    print(
      f"error: `jssl {command}` needs the package {error.name}: "
      "pip install 'jssl[train]'",
      file=sys.stderr,
    )
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
