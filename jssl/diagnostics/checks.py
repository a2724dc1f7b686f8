"""Checks of the arguments of measures: shapes, dtypes, labels, views."""

import collections
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from jssl.diagnostics.rows import ROUNDING, Matrix, float64_blocks


def check_floating(x: Shaped[np.ndarray, "..."] | Matrix, name: str) -> None:
  """Raises TypeError unless the dtype is floating, bfloat16 included."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"{name} must be floating, not {x.dtype}")


def check_features(
  features: Shaped[np.ndarray, "..."] | Matrix,
  name: str = "features",
  *,
  rows: int = 2,
  views: int | None = None,
) -> None:
  """Checks dtype, shape, least number of rows and, if given, of views."""
  ndim, expected = (2, "[n, d]") if views is None else (3, "[n, v, d]")
  if features.ndim != ndim or not features.shape[-1]:
    raise ValueError(f"{name} must be {expected}, not {features.shape}")
  if views is not None and features.shape[1] < views:
    raise ValueError(
      f"{name} has {features.shape[1]} views of each image; this measure needs "
      f"at least {views}"
    )
  if len(features) < rows:
    raise ValueError(
      f"{name} has {len(features)} rows; this measure needs at least {rows}"
    )
  check_floating(features, name)


def check_finite(**array: Shaped[np.ndarray, "n d"] | Matrix) -> None:
  """Raises ValueError if rows are not finite."""
  # `float64_blocks` counts them in all blocks before it raises.
  collections.deque(float64_blocks(**array), maxlen=0)


def check_views(
  views: Float[np.ndarray, "n v d"],
  name: str = "views",
  *,
  rows: int = 2,
  num_views: int = 2,
) -> None:
  """Checks views as `check_features` and `check_views_differ` do."""
  check_features(views, name, rows=rows, views=num_views)
  check_views_differ(**{name: views})


def check_views_differ(**views: Float[np.ndarray, "n _ d"]) -> None:
  """Raises ValueError if images differ, but no views of any image do.

  Collapsed features, where all images are one point, pass. All arrays are views
  of the same images.
  """
  first, collapsed = None, True
  for block in float64_blocks(**views):
    x = np.concatenate(block, axis=1)
    first = x[:1, :1] if first is None else first
    if not _is_close(x, x[:, :1]):
      return
    collapsed = collapsed and _is_close(x, first)
  if not collapsed:
    arrays = list(views.values())
    raise ValueError(
      f"{' and '.join(views)}: all {sum(x.shape[1] for x in arrays)} views of "
      f"each of {len(arrays[0])} images are equal up to rounding; this measure "
      "needs augmented views"
    )


def _is_close(
  x: Float[np.ndarray, "b v d"], own: Float[np.ndarray, "_ 1 d"]
) -> bool:
  # `own` is broadcast over x: count its rows as often.
  scale = x.size / own.size * np.sum(own**2)
  return bool(np.sum((x - own) ** 2) <= ROUNDING * scale)


def flat_pixels(
  views: Float[np.ndarray, "n m *pixel"],
) -> Float[np.ndarray, "n m p"]:
  """Returns views with the pixels of each view in one dimension."""
  if views.ndim not in (3, 5) or not views.size:
    raise ValueError(
      f"views must be [n, m, p] or [n, m, h, w, c], not {views.shape}"
    )
  check_floating(views, "views of pixels in [0, 1]")
  return views.reshape(*views.shape[:2], -1)


def check_labels(
  labels: Int[np.ndarray, "n"] | Sequence[int],
  rows: int,
  num_classes: int | None = None,
) -> Int[np.ndarray, "n"]:
  """Returns labels as an array, if each row has one below `num_classes`."""
  labels = np.asarray(labels)
  if labels.shape != (rows,):
    raise ValueError(f"labels must be [n] = ({rows},), not {labels.shape}")
  if not np.issubdtype(labels.dtype, np.integer):
    raise TypeError(f"labels must be integers, not {labels.dtype}")
  missing = int(np.sum(labels < 0))
  if missing:
    raise ValueError(
      f"{missing} of {rows} rows have no label (labels < 0); this measure "
      "needs a label for each row"
    )
  if num_classes is not None and rows and labels.max() >= num_classes:
    raise ValueError(
      f"labels go up to {labels.max()}, but num_classes={num_classes}"
    )
  return labels


def check_positive(**values: float) -> None:
  """Raises ValueError for the first keyword that is not positive."""
  for name, value in values.items():
    if not value > 0:
      raise ValueError(f"{name} must be positive, not {value}")


def check_not_negative(
  name: str, values: Sequence[float] | Float[np.ndarray, "t"]
) -> Float[np.ndarray, "t"]:
  """Returns finite, non-negative numbers as a float64 array, or raises."""
  wide = np.asarray(values, np.float64)
  if wide.ndim != 1 or not len(wide):
    raise ValueError(f"{name} must be a list of numbers, not {wide.shape}")
  if not np.isfinite(wide).all() or wide.min() < 0:
    raise ValueError(f"{name} must be finite and not negative, not {wide}")
  return wide
