"""What every measure refuses, with the numbers: shapes, labels, non-finite."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from jssl.diagnostics.blocks import BLOCK_ROWS, block_images
from jssl.diagnostics.rows import ROUNDING
from jssl.typing import PyTree


def check_floating(
  x: Shaped[np.ndarray, "..."], name: str, what: str = ""
) -> None:
  """Raises TypeError if an array is not floating; `what` says what it holds."""
  # JAX knows bfloat16 as well.
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"{name} must be floating{what}, not {x.dtype}")


def check_features(
  features: Shaped[np.ndarray, "n d"], *, name: str = "features", rows: int = 2
) -> None:
  """Checks a matrix of features before it is measured.

  Args:
    features: of one row an image.
    name: of the argument, for the message.
    rows: fewest that make sense.

  Raises:
    ValueError: it is not [n, d], or has fewer rows.
    TypeError: it is not of a floating dtype.
  """
  if features.ndim != 2 or not features.shape[1]:
    raise ValueError(f"{name} must be [n, d], not {features.shape}")
  if len(features) < rows:
    raise ValueError(
      f"{name} has {len(features)} rows; this measure needs at least {rows}"
    )
  check_floating(features, name)


def check_views(
  views: Float[np.ndarray, "n v d"],
  *,
  name: str = "views",
  rows: int = 2,
  num_views: int = 2,
) -> None:
  """Checks features of several views of each image before they are measured.

  Args:
    views: of one row an image.
    name: of the argument, for the message.
    rows: fewest images that make sense.
    num_views: fewest views of each image that make sense.

  Raises:
    ValueError: it is not [n, v, d], or has fewer images or views.
    TypeError: it is not of a floating dtype.
  """
  if views.ndim != 3 or not views.shape[2]:
    raise ValueError(f"{name} must be [n, v, d], not {views.shape}")
  if views.shape[1] < num_views:
    raise ValueError(
      f"{name} has {views.shape[1]} views of each image; this measure needs at "
      f"least {num_views}"
    )
  check_features(views[:, 0], name=name, rows=rows)


def check_views_differ(
  views: Float[np.ndarray, "n v d"],
  *others: Float[np.ndarray, "n w d"],
  name: str = "views",
) -> None:
  """Checks that augmentation did something to some image.

  Features that are one point are let through: they are collapsed, and views
  may well have been different.

  Args:
    views: features or pixels of n images.
    *others: other views of the same images.
    name: of the argument, for the message.

  Raises:
    ValueError: images differ, but no view differs from another of its image by
      more than rounding.
  """
  first = np.asarray(views[:1, :1], np.float64)
  collapsed = True
  images = block_images(views)
  for start in range(0, len(views), images):
    block = slice(start, start + images)
    own = np.asarray(views[block, :1], np.float64)
    for some in (views, *others):
      if not _is_close(some[block], own):
        return
    collapsed = collapsed and _is_close(own, first)
  if not collapsed:
    raise ValueError(
      f"{name}: all {sum(x.shape[1] for x in (views, *others))} views of each "
      f"of {len(views)} images are the same to rounding; this measure needs "
      "views that differ: were they augmented?"
    )


def _is_close(
  x: Float[np.ndarray, "b v d"], own: Float[np.ndarray, "*b 1 d"]
) -> bool:
  """Whether rows differ by rounding only; NaN does, and is told of later."""
  with np.errstate(invalid="ignore", over="ignore"):
    square = np.sum((x - own) ** 2)
    # Of as many rows as x has, whichever of them it was compared with.
    rows = x.size / own.size
    return bool(square <= ROUNDING * rows * np.sum(own**2))


def flat_pixels(
  views: Float[np.ndarray, "n m *pixel"],
) -> Float[np.ndarray, "n m p"]:
  """Returns views of images with their pixels in one dimension.

  Raises:
    ValueError: they are neither [n, m, p] nor [n, m, h, w, c], or empty.
    TypeError: they are not of a floating dtype.
  """
  if views.ndim not in (3, 5) or not views.size:
    raise ValueError(
      f"views must be [n, m, p] or [n, m, h, w, c], not {views.shape}"
    )
  check_floating(views, "views", ", pixels in [0, 1]")
  return views.reshape(*views.shape[:2], -1)


def check_labels(
  labels: Int[np.ndarray, "n"], rows: int, num_classes: int | None = None
) -> Int[np.ndarray, "n"]:
  """Returns labels as an array, once it is clear that there is one a row.

  Args:
    labels: class of each row, from 0.
    rows: n.
    num_classes: that there are; None doesn't say.

  Raises:
    ValueError: there are more or fewer, a row has none (a negative one), or one
      of num_classes or more.
    TypeError: they are not integers.
  """
  labels = np.asarray(labels)
  if labels.shape != (rows,):
    raise ValueError(f"labels must be [n] = ({rows},), not {labels.shape}")
  if not np.issubdtype(labels.dtype, np.integer):
    raise TypeError(f"labels must be integers, not {labels.dtype}")
  missing = int(np.sum(labels < 0))
  if missing:
    raise ValueError(
      f"{missing} of {rows} rows have no label (labels < 0); this measure "
      "needs them all"
    )
  if num_classes is not None and rows and labels.max() >= num_classes:
    raise ValueError(
      f"labels go up to {labels.max()}, but num_classes={num_classes}"
    )
  return labels


def check_finite(
  total: PyTree,
  features: Shaped[np.ndarray, "n ..."],
  *,
  name: str = "features",
) -> None:
  """Raises ValueError, with their number, if sums met non-finite rows.

  Args:
    total: a pytree of sums.
    features: that they are of; looked at only if a sum isn't finite.
    name: of the argument, for the message.
  """
  if all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(total)):
    return
  axes = tuple(range(1, features.ndim))
  bad = sum(
    int(np.sum(~np.isfinite(features[i : i + BLOCK_ROWS]).all(axes)))
    for i in range(0, len(features), BLOCK_ROWS)
  )
  if not bad:
    raise ValueError(
      f"{name}: squares of {len(features)} rows overflow float32, though all "
      "values are finite; scale them down"
    )
  raise ValueError(
    f"{name}: {bad} of {len(features)} rows have values that are not finite"
  )


def check_positive(**values: float) -> None:
  """Raises ValueError for a keyword that isn't positive, or NaN."""
  for name, value in values.items():
    if not value > 0:
      raise ValueError(f"{name} must be positive, not {value}")


def check_not_negative(
  name: str, values: Sequence[float] | Float[np.ndarray, "t"]
) -> Float[np.ndarray, "t"]:
  """Returns a list of finite numbers from 0 as an array, or ValueError."""
  wide = np.asarray(values, np.float64)
  if wide.ndim != 1 or not len(wide):
    raise ValueError(f"{name} must be a list of numbers, not {wide.shape}")
  if not np.isfinite(wide).all() or wide.min() < 0:
    raise ValueError(f"{name} must be finite and not negative, not {wide}")
  return wide
