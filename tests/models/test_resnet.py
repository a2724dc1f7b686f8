import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models import resnet
from jssl.models.backbone import init_variables

TINY = resnet.ResNet(
  depth=18, small_images=True, width=4, mean=(0.5,), std=(0.5,)
)


def images(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize(
  ("depth", "feature_dim", "count"),
  # torchvision's counts, less the 1000-way classifier.
  [(18, 512, 11_689_512 - 513_000), (50, 2048, 25_557_032 - 2_049_000)],
)
def test_parameter_counts(depth, feature_dim, count):
  backbone = resnet.ResNet(depth=depth, small_images=False).backbone()
  shapes = jax.eval_shape(lambda: init_variables(0, backbone, (224, 224, 3)))
  assert backbone.feature_dim == feature_dim
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
  h = jax.eval_shape(
    lambda v, x: backbone.apply(v, x, train=False)[0],
    shapes,
    jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32),
  )
  assert h.shape == (2, feature_dim)


def test_training_updates_statistics_and_evaluation_uses_them():
  backbone = TINY.backbone()
  variables = init_variables(0, backbone, (8, 8, 1))
  x = images(6, 8, 8, 1)
  _, after = backbone.apply(variables, x, train=True)
  before = variables["batch_stats"]["stem_norm"]["mean"]
  assert np.abs(after["batch_stats"]["stem_norm"]["mean"] - before).max() > 0
  h, same = backbone.apply(after, x, train=False)
  assert same["batch_stats"] is after["batch_stats"]
  alone, _ = backbone.apply(after, x[1:2], train=False)
  np.testing.assert_allclose(alone[0], h[1], rtol=1e-4, atol=1e-5)


def test_blocks_start_as_the_identity():
  block = resnet.Block(4, 1, bottleneck=False, dtype=jnp.float32)
  x = images(2, 6, 6, 4)
  variables = block.init(jax.random.key(0), x, train=False)
  np.testing.assert_allclose(block.apply(variables, x, train=False), x)


def test_unknown_depth():
  with pytest.raises(ValueError, match=r"model.depth=19.*\[18, 50\]"):
    resnet.ResNet(depth=19, small_images=True)
