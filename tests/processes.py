"""Several real processes of one command, connected as on a pod."""

import os
import pathlib
import socket
import subprocess
import sys

import jssl

ROOT = pathlib.Path(jssl.__file__).parents[1]


def free_port():
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def start(count, arguments, *, devices=8, environ=None, different=()):
  """Starts `count` processes of one command, with `devices` between them."""
  address = f"127.0.0.1:{free_port()}"
  started = []
  for index in range(count):
    own = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(devices // count),
      # Of what the tests run as a module.
      "PYTHONPATH": str(ROOT / "tests"),
      **(environ or {}),
    }
    if count > 1:
      own |= {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
      }
    started.append(
      subprocess.Popen(
        [
          sys.executable,
          *arguments,
          *(different if index == count - 1 else ()),
        ],
        cwd=ROOT,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  return started


def ends(started, timeout=300):
  """Waits; returns exit statuses and what was said."""
  try:
    said = [process.communicate(timeout=timeout)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  return [process.returncode for process in started], said
