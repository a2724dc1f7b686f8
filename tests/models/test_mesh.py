"""Sharding of activations when parameters are split over `fsdp`."""

import re

import jax
import jax.numpy as jnp
import pytest

from jssl import mesh
from jssl.models.resnet import ResNet
from jssl.models.vit import ViT

# Images per batch on 8 devices: 6 per device, 24 per group of 4 (`fsdp`).
SHAPE = (48, 8, 8, 3)
VIT = {"patch_size_px": 4, "width": 256, "depth": 2, "num_heads": 2}
# Attention of 4 tokens; maps of 64 to 256 channels.
LOGITS = ("2,4,4",)
MAPS = ("8,8,64", "4,4,128", "2,2,256")


@pytest.mark.parametrize(
  ("model", "shapes"),
  [
    (ViT(**VIT), LOGITS),
    (ViT(**VIT, scan_layers=True), LOGITS),
    (
      ViT(
        **VIT, positions="rope", pooling="cls", num_registers=2, mlp="swiglu"
      ),
      ("2,7,7",),
    ),
    (ResNet(18, True), MAPS),
  ],
  ids=["vit", "scanned", "modern", "resnet"],
)
def test_each_device_holds_the_rows_of_its_own_images(model, shapes):
  """Not parts of the rows of all devices that share its parameters."""
  backbone, devices = model.backbone(), mesh.make_mesh(2, 4)
  variables = jax.eval_shape(
    lambda: backbone.init(jax.random.key(0), SHAPE[1:])
  )
  variables = jax.tree.map(
    lambda leaf, own: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=own
    ),
    variables,
    mesh.state_sharding(devices, variables),
  )
  images = jax.ShapeDtypeStruct(
    SHAPE, jnp.float32, sharding=mesh.batch_sharding(devices)
  )

  def loss(params, rest, images):
    (h, *_), _ = backbone.apply({**rest, "params": params}, images, train=True)
    return jnp.mean(h**2)

  compiled = (
    jax.jit(jax.grad(loss))
    .lower(variables["params"], variables, images)
    .compile()
  )
  for shape in shapes:
    rows = set(re.findall(rf"f32\[(\d+),{shape}\]", compiled.as_text()))
    assert rows == {"6"}, shape


def test_indivisible_rows_and_other_meshes_are_unchanged():
  x = jnp.ones((8, 2))
  assert mesh.rows_on_all(x) is x
  devices = mesh.make_mesh(2, 4)
  odd = jnp.ones((3, 2))
  placed = jax.device_put(odd, mesh.replicated(devices))
  assert jax.jit(mesh.rows_on_all)(placed).sharding.is_fully_replicated
  placed = jax.device_put(x, mesh.replicated(devices))
  lying = jax.jit(mesh.rows_on_all)(placed).sharding
  assert lying.shard_shape(x.shape) == (1, 2)
