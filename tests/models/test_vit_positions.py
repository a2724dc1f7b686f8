import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models import vit_positions
from tests.models.test_vit import (
  TINY,
  evaluate,
  filled,
  images,
  keys_kernel,
  keys_of,
  train,
)

ROPE = dataclasses.replace(
  TINY, positions="rope", rope_shift=0.2, rope_jitter=1.5, rope_rescale=2.0
)


def resize_matrix(old, new, interpolation):
  """Interpolation weights [new, old] of one axis, as PyTorch's loops."""
  scale = (new + (0.1 if interpolation == "dino" else 0)) / old
  weights = np.zeros((new, old))
  for i in range(new):
    centre = (i + 0.5) / scale - 0.5
    if interpolation == "antialias":
      width = max(1, 1 / scale)
      for j in range(old):
        weights[i, j] = keys_kernel((centre - j) / width)
      weights[i] /= weights[i].sum()
    else:
      first = int(np.floor(centre)) - 1
      for j in range(first, first + 4):
        edge = min(max(j, 0), old - 1)
        weights[i, edge] += keys_kernel(centre - j, a=-0.75)
  return weights


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("interpolation", ["dino", "antialias", "size"])
@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (7, 4), (3, 9), (5, 4)])
def test_learned_positions_are_interpolated_as_in_pytorch(
  interpolation, rows, columns
):
  learned = np.random.default_rng(0).normal(size=(5, 4, 3))
  expected = learned
  if (rows, columns) != (5, 4):
    expected = np.einsum(
      "ih,jw,hwd->ijd",
      resize_matrix(5, rows, interpolation),
      resize_matrix(4, columns, interpolation),
      learned,
    )
  np.testing.assert_allclose(
    vit_positions.resized_positions(
      jnp.asarray(learned), rows, columns, interpolation
    ),
    expected.reshape(-1, 3),
    rtol=1e-9,
    atol=1e-12,
  )


@functools.partial(jax.jit, static_argnames=("shift", "jitter", "rescale"))
def augmented(keys, *, shift=0.0, jitter=1.0, rescale=1.0):
  corners = jnp.array([[-1.0, -1.0], [1.0, 1.0]])
  return vit_positions.augmented_coordinates(
    keys, corners, shift=shift, jitter=jitter, rescale=rescale
  )


def assert_uniform(draws, low, high):
  assert draws.min() >= low
  assert draws.max() <= high
  # Five standard deviations of the largest deviation of quantiles.
  tolerance = 5 * 0.5 * (high - low) / len(draws) ** 0.5
  expected = np.linspace(low, high, len(draws))
  np.testing.assert_allclose(np.sort(draws), expected, atol=tolerance)


def test_augmented_coordinates_have_their_distributions():
  keys, n = keys_of(2000), 2000
  low, high = np.moveaxis(augmented(keys, shift=0.3), 1, 0)
  np.testing.assert_allclose(high - low, 2, atol=1e-6)
  for axis in range(2):
    assert_uniform((low + 1)[:, axis], -0.3, 0.3)
  assert abs(np.corrcoef(low.T)[0, 1]) < 5 / n**0.5

  low, high = np.moveaxis(augmented(keys, jitter=1.5), 1, 0)
  np.testing.assert_allclose(low, -high)
  for axis in range(2):
    assert_uniform(np.log(high[:, axis]), -np.log(1.5), np.log(1.5))
  assert abs(np.corrcoef(np.log(high.T))[0, 1]) < 5 / n**0.5

  low, high = np.moveaxis(augmented(keys, rescale=2.0), 1, 0)
  np.testing.assert_array_equal(high[:, 0], high[:, 1])
  assert_uniform(np.log(high[:, 0]), -np.log(2), np.log(2))


def test_augmented_coordinates_follow_the_keys_of_images():
  keys, order = keys_of(16), np.random.default_rng(0).permutation(16)
  draw = functools.partial(augmented, shift=0.2, jitter=1.5, rescale=2.0)
  np.testing.assert_array_equal(draw(keys[order]), draw(keys)[order])


def test_coordinates_are_augmented_in_training_only():
  x, variables = images(4, 8, 8, 1), filled(ROPE)
  h, _ = train(ROPE, variables, x, keys_of(4))
  still = evaluate(ROPE, variables, x)
  assert np.abs(h - still).max() > 1e-3
  plain = dataclasses.replace(TINY, positions="rope")
  np.testing.assert_array_equal(evaluate(plain, variables, x), still)
  unaugmented, _ = train(plain, variables, x, keys_of(4))
  np.testing.assert_allclose(unaugmented, still, rtol=1e-5, atol=1e-6)


def test_zero_rotations_change_nothing():
  x = images(2, 3, 2, 8)
  rotations = vit_positions.rope_rotations(jnp.zeros((1, 3, 2)), 8)
  np.testing.assert_array_equal(vit_positions.rotated(x, rotations), x)
