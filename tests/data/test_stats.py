"""Mean and standard deviation of pixels."""

import subprocess
import sys

import numpy as np
import pytest

from jssl.data.source import InMemory
from jssl.data.statistics import pixel_statistics


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_are_those_of_all_pixels(dtype):
  rng = np.random.default_rng(0)
  x = rng.beta(2, 5, (150, 3, 4, 5)) * np.arange(1, 6) / 5
  most = 1 if dtype == "float32" else np.iinfo(dtype).max
  images = np.asarray(x * most, dtype)
  source = InMemory("made", (), images, np.full(150, -1, np.int32))
  found = pixel_statistics(source, images=1000)
  values = images.astype(float) / most
  np.testing.assert_allclose(found.mean, values.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(found.std, values.std((0, 1, 2)), rtol=1e-6)
  some = pixel_statistics(source, images=50)
  np.testing.assert_allclose(some.mean, values[::3].mean((0, 1, 2)), rtol=1e-6)


def test_command_prints_lines_of_a_config():
  command = [sys.executable, "-m", "jssl", "stats"]
  done = subprocess.run(
    [*command, "cluttered_digits", "--images=100"],
    capture_output=True,
    text=True,
    check=True,
  )
  section = eval("{" + done.stdout + "}")
  assert set(section) == {"mean", "std"}
  assert 0.3 < min(section["mean"]) < max(section["mean"]) < 0.5
  done = subprocess.run(
    [*command, "nothing", "--data_dir=/nowhere"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert done.stderr.startswith("error: data.name='nothing' is not in /nowhere")
