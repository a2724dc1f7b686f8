"""Which leaves count as matrices, by name and shape."""

import jax
import jax.numpy as jnp
import pytest

from jssl.optim.chain import is_matrix, matrices

DEPTH = 3


@pytest.mark.parametrize(
  ("name", "shape", "expected"),
  [
    ("backbone/embed/kernel", (4, 8), True),
    ("backbone/stem/kernel", (3, 3, 4, 8), True),
    ("backbone/embed/bias", (8,), False),
    ("backbone/norm/scale", (8,), False),
    # Stacked: one dimension is that of the layers.
    ("backbone/blocks/qkv/kernel", (DEPTH, 8, 24), True),
    ("backbone/blocks/qkv/bias", (DEPTH, 24), False),
    ("backbone/blocks/attention_norm/scale", (DEPTH, 8), False),
    ("backbone/blocks/gamma", (DEPTH, 8), False),
    ("backbone/blocks/temperature", (DEPTH,), False),
    # Unrolled: nothing is stacked.
    ("backbone/block_0/qkv/kernel", (8, 24), True),
    ("backbone/block_0/gamma", (8,), False),
    # By name, whatever the shape.
    ("backbone/positions", (1, 5, 8), False),
    ("backbone/positions", (5, 8), False),
    ("backbone/cls", (1, 1, 8), False),
    ("backbone/registers", (4, 8), False),
    ("backbone/attention/query/bias", (2, 4), False),
    ("head/prototypes", (8, 16), True),
    ("head/temperature", (), False),
  ],
)
def test_is_matrix(name, shape, expected):
  leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
  assert is_matrix(name, leaf) is expected


def test_matrices_keeps_the_tree():
  params = {
    "blocks": {"kernel": jnp.ones((2, 2, 2)), "bias": jnp.ones((2, 2))},
    "list": [jnp.ones((2, 2)), jnp.ones(2)],
  }
  assert matrices(params) == {
    "blocks": {"kernel": True, "bias": False},
    "list": [True, False],
  }
