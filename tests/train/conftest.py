"""What several files need: a run that nobody interrupts."""

import pytest
from train.runs import run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("uninterrupted")
  done = run(workdir)
  assert done.returncode == 0, done.stderr
  return workdir
