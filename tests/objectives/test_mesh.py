"""Objectives on eight devices equal those on one."""

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from objectives.cases import BY_NAME, B, answer, assert_equal, moved, point

from jssl import mesh

NAMES = ["byol", "moco_v3_queue", "swav", "dino", "dissl", "cissl"]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
def test_mesh_equals_one_device(name):
  """Compares value, metrics, gradients and the state after the update."""
  case = BY_NAME[name]
  at, after = point(case), moved(case)
  assert jax.device_count() == B

  def give(at, after):
    got = answer(case.objective, True, at, after)
    params, _, student, _ = got.gradient
    return got._replace(gradient=(params, student))

  devices = mesh.make_mesh(data=4, fsdp=2)
  split = NamedSharding(devices, P(None, mesh.AXES))
  whole = mesh.replicated(devices)
  placed = jax.device_put(at._replace(step=0), whole)._replace(
    student=jax.device_put(at.student, split),
    teacher=jax.device_put(at.teacher, split),
    labels=jax.device_put(at.labels, mesh.batch_sharding(devices)),
    step=at.step,
  )
  got = jax.jit(give)(placed, jax.device_put(after, whole))
  assert len(got.loss.devices()) == 8
  assert_equal(got, jax.jit(give)(at, after), rtol=1e-10)
