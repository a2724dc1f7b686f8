"""Scripts as they run here, with commands that only say what they were told."""

import os
import pathlib
import shutil
import subprocess
import sys

import jssl

ROOT = pathlib.Path(jssl.__file__).parents[1]
LAUNCH = ROOT / "launch"


def lint(linter, *arguments, text=""):
  """Returns the findings of a linter of the test extra, in files or a text."""
  # Beside the interpreter, or the machine's.
  folders = [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
  command = shutil.which(linter, path=os.pathsep.join(folders))
  assert command, f"pip install 'jssl[test]' brings {linter}"
  done = subprocess.run(
    [command, *arguments],
    input=text,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.stdout + done.stderr


def shellcheck(*arguments, text=""):
  """Returns the findings of shellcheck in files, or in a text."""
  return lint("shellcheck", *arguments, text=text)


def said(script, *arguments, status=0, **environ):
  """Returns what a script says, without quotes; its errors if it must fail."""
  done = subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env={**os.environ, **environ},
  )
  assert done.returncode == status, done.stderr
  return done.stdout.replace("'", "") if status == 0 else done.stderr


def stub(path, text):
  """Writes an executable of a few lines of bash."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"#!/usr/bin/env bash\n{text}\n")
  path.chmod(0o755)


# A line of a stub of Python: the module that reads workdirs is the real one.
STATUS = (
  '[ "$2" != jssl.runtime.status ] || '
  f'PYTHONPATH={ROOT} exec {sys.executable} "$@"'
)


def first_in_path(folder):
  """Returns the environment variable that makes its commands come first."""
  return {"PATH": f"{folder}:{os.environ['PATH']}"}
