"""`python -m jssl.runtime.status WORKDIR`: how far a run is, for launchers.

Prints `complete` or `restartable` (see `status.json`), or `running` for a run
that has not ended well, and the step of the last checkpoint: `complete 800`.
"""

import sys

from jssl.runtime import files
from jssl.runtime.paths import as_path


def status(workdir: str) -> str:
  """Returns the line of a workdir, which need not exist."""
  path = as_path(workdir)
  ended = (files.read_json(path / "status.json") or {}).get("status")
  folder = path / "checkpoints"
  steps = [
    int(checkpoint.name)
    for checkpoint in (folder.iterdir() if folder.is_dir() else ())
    # The last file of a checkpoint.
    if checkpoint.name.isdigit() and (checkpoint / "manifest.json").exists()
  ]
  return f"{ended or 'running'} {max(steps, default=0)}"


if __name__ == "__main__":
  print(status(sys.argv[1]))
