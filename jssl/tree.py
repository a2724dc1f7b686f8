"""Names, masks and reductions of pytrees."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jssl.typing import PyTree, Scalar


def path_name(path: tuple) -> str:
  """Formats a key path of `jax.tree_util` as "a/b/0"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def names(tree: PyTree) -> list[str]:
  """Returns the path names of all leaves in order."""
  return [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]


def mask(tree: PyTree, keep: Callable[[str, jax.Array], bool]) -> PyTree:
  """Returns a tree of `keep(path_name, leaf)` for each leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: keep(path_name(path), leaf), tree
  )


def size(tree: PyTree) -> int:
  """Returns the number of values in all leaves."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def all_finite(tree: PyTree) -> jax.Array:
  """Returns a scalar, True if no floating-point leaf has NaN or infinity."""
  finite = [
    jnp.all(jnp.isfinite(leaf))
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(finite)) if finite else jnp.array(True)


def norm(tree: PyTree) -> Scalar:
  """Returns the global L2 norm of all leaves, in float32 or wider."""
  squares = [
    jnp.sum(jnp.square(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))))
    for leaf in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares, start=jnp.zeros(())))


def ema(average: PyTree, new: PyTree, momentum: Scalar | float) -> PyTree:
  """Returns `momentum * average + (1 - momentum) * new`, leaf by leaf."""
  return jax.tree.map(
    lambda a, n: (a + (1 - momentum) * (n - a)).astype(a.dtype), average, new
  )
