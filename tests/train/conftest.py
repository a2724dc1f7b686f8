"""A run without interruptions, which several files compare with."""

import pytest
from train.runs import run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("uninterrupted")
  done = run(workdir, **{"log.profile_steps": (2, 3)})
  assert done.returncode == 0, done.stderr
  return workdir
