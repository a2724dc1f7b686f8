"""Masks against the sampling rules of the papers, written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import masks as rules

from jssl.augment import masks

GRID = (14, 14)


def keys(number: int, seed: int = 0) -> jax.Array:
  return jax.random.split(jax.random.key(seed), number)


def assert_same_mean(values, expected, sigmas: float = 5.0) -> None:
  """Asserts that two samples [n, ...] have equal means, up to chance."""
  values, expected = np.asarray(values, float), np.asarray(expected, float)
  deviation = np.sqrt(
    values.var(0) / len(values) + expected.var(0) / len(expected)
  )
  difference = np.abs(values.mean(0) - expected.mean(0))
  assert (difference <= sigmas * deviation + 1e-12).all()


def test_random_visible_is_uniform_without_replacement() -> None:
  visible, hidden = jax.vmap(lambda key: masks.random_visible(key, 196, 49))(
    keys(4000)
  )
  both = np.concatenate([visible, hidden], axis=1)
  assert (np.sort(both, axis=1) == np.arange(196)).all()
  assert all(len(set(row)) == 49 for row in np.asarray(visible))
  counts = np.bincount(np.asarray(visible).reshape(-1), minlength=196)
  expected = 4000 * 49 / 196
  assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * 0.75)
  # The order is random too: the first place holds every patch.
  assert len(set(np.asarray(visible[:, 0]).tolist())) == 196


def test_random_units_hides_whole_units() -> None:
  hidden = np.asarray(
    jax.vmap(lambda key: masks.random_units(key, GRID, 0.6, unit=2))(keys(2000))
  )
  assert (hidden.sum((1, 2)) == 120).all()  # 30 of 49 units of 4 patches
  units = hidden.reshape(-1, 7, 2, 7, 2)
  assert (units == units[:, :, :1, :, :1]).all()
  assert np.abs(hidden.mean(0) - 30 / 49).max() < 5 * np.sqrt(0.25 / 2000)


@pytest.mark.parametrize(
  ("min_area", "max_area"), [(16.0, np.inf), (4.0, 98.0)], ids=["ibot", "v2"]
)
@pytest.mark.parametrize("budget", [19.6, 60.0, 98.0])
def test_blocks_follow_the_published_rule(
  budget: float, min_area: float, max_area: float
) -> None:
  hidden = np.asarray(
    jax.jit(
      jax.vmap(
        lambda key: masks.blocks(
          key, GRID, budget, min_area=min_area, max_area=max_area
        )
      )
    )(keys(2000))
  )
  expected = rules.blocks(2000, GRID, budget, min_area, max_area)
  counts = hidden.sum((1, 2))
  assert counts.max() <= budget
  assert_same_mean(counts, expected.sum((1, 2)))
  assert_same_mean(counts**2, expected.sum((1, 2)) ** 2)
  assert_same_mean(hidden, expected)
  # Neighbours are hidden together as often.
  assert_same_mean(
    (hidden[:, 1:] & hidden[:, :-1]).sum((1, 2)),
    (expected[:, 1:] & expected[:, :-1]).sum((1, 2)),
  )


def test_blocks_need_fewer_draws_than_the_default() -> None:
  """`max_blocks` is a bound: the published rule ends before it."""
  attempts = rules.most_attempts(5000, GRID, 98.0, 4.0, np.inf)
  assert attempts < 128


def test_exact_blocks_use_the_whole_budget() -> None:
  def hide(exact: bool):
    return np.asarray(
      jax.vmap(lambda key: masks.blocks(key, GRID, 59.7, exact=exact))(
        keys(200)
      )
    )

  assert (hide(True).sum((1, 2)) == 59).all()
  assert (hide(True) | ~hide(False)).all()  # the blocks themselves stay


def test_no_budget_hides_nothing() -> None:
  for exact in (False, True):
    assert not masks.blocks(keys(1)[0], GRID, 0.0, exact=exact).any()


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (7, 7), (6, 9)])
def test_multi_block_follows_the_published_rule(grid: tuple[int, int]) -> None:
  images, length = 2400, grid[0] * grid[1]
  drawn = jax.jit(jax.vmap(lambda key: masks.multi_block(key, grid, length)))(
    keys(images)
  )
  # One image per step, since the official code draws one size per step.
  context, targets = rules.multi_block(images, 1, grid)

  def dense(indices, valid):
    out = np.zeros((*indices.shape[:-1], length), bool)
    np.put_along_axis(out, np.asarray(indices), np.asarray(valid), axis=-1)
    # Padding is index 0: set it again where 0 itself is valid.
    out[..., 0] = (np.asarray(valid) & (np.asarray(indices) == 0)).any(-1)
    return out

  mine = dense(drawn.context, drawn.context_valid)
  assert_same_mean(mine, context[:, 0], 6)
  hidden = dense(drawn.targets, drawn.targets_valid)
  sizes = hidden.sum(-1)
  assert (sizes == sizes[:, :1]).all()  # One size for all targets.
  assert len(np.unique(sizes)) > 1
  assert_same_mean(sizes[:, 0], targets[:, 0, 0].sum(-1))
  assert_same_mean(hidden.mean(1), targets[:, 0].mean(1), 6)
  if min(grid) > 7:  # Small grids keep targets in a context that is too short.
    assert not (hidden.any(1) & mine).any()


def test_multi_block_cuts_and_pads_the_context() -> None:
  drawn = jax.vmap(lambda key: masks.multi_block(key, GRID, 70))(keys(100))
  whole = jax.vmap(lambda key: masks.multi_block(key, GRID, 196))(keys(100))
  lengths = np.asarray(whole.context_valid.sum(-1))
  assert lengths.min() < 70 < lengths.max()
  assert (drawn.context_valid.sum(-1) == np.minimum(lengths, 70)).all()
  both = drawn.context_valid
  assert (jnp.where(both, drawn.context - whole.context[:, :70], 0) == 0).all()


@pytest.mark.slow
def test_contexts_that_targets_would_cover_keep_enough_patches() -> None:
  drawn = jax.vmap(
    lambda key: masks.multi_block(key, (6, 6), 36, target_area=(0.6, 0.7))
  )(keys(50))
  assert (drawn.context_valid.sum(-1) > 10).all()


def test_a_mask_depends_on_its_key_only() -> None:
  def draw(keys):
    return jax.vmap(lambda key: masks.blocks(key, GRID, 60.0))(keys)

  several = keys(8)
  assert (jax.jit(draw)(several)[3] == draw(several[3:4])[0]).all()


def test_bad_arguments_are_named() -> None:
  key = keys(1)[0]
  with pytest.raises(
    ValueError, match=r"visible=0 must be in \[1, patches=9\]"
  ):
    masks.random_visible(key, 9, 0)
  with pytest.raises(ValueError, match="unit=3 must divide"):
    masks.random_units(key, GRID, 0.5, unit=3)
  with pytest.raises(ValueError, match=r"ratio=1 must be in \(0, 1\)"):
    masks.random_units(key, GRID, 1)
  with pytest.raises(ValueError, match="min_aspect=0"):
    masks.blocks(key, GRID, 5.0, min_aspect=0)
  with pytest.raises(ValueError, match="context of 7 patches"):
    masks.multi_block(key, (3, 3), 9)
