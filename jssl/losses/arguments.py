"""Validation of arguments, at trace time.

Functions take arrays by name; error messages use these names.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import upcast_dtype
from jssl.typing import Scalar

# float16 lacks the range that gradients need.
_HALF = jnp.bfloat16


def floats(arrays: Mapping[str, Array], shape: str) -> tuple[Array, ...]:
  """Validates floating-point arrays and casts them to one dtype.

  Args:
    arrays: arrays by name.
    shape: expected dimensions as letters, such as "b d".

  Raises:
    TypeError: if one isn't a floating-point array.
    ValueError: if one has another number of dimensions, or is empty.
  """
  letters = shape.split()
  arrays = {name: unwrapped(x) for name, x in arrays.items()}
  for name, x in arrays.items():
    if not isinstance(x, jax.Array | np.ndarray):
      raise TypeError(f"{name} must be an array, got {type(x).__name__}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(f"{name} must have a floating dtype, got {x.dtype}")
    if x.ndim != len(letters):
      raise ValueError(
        f"{name} must have shape [{', '.join(letters)}], got {x.shape}"
      )
    if not all(isinstance(n, int) for n in x.shape):
      raise ValueError(
        f"{name} has the symbolic shape {x.shape}, but tiles need known sizes: "
        "export one program (`jax.export`) for each batch size"
      )
    if 0 in x.shape:
      raise ValueError(f"{name} must not be empty, got {x.shape}")
  return of_one_dtype(*map(jnp.asarray, arrays.values()))


def unwrapped(value: Any) -> Any:
  """Returns the array of a parameter object, such as `flax.nnx.Param`."""
  if isinstance(value, jax.Array) or not hasattr(value, "__jax_array__"):
    return value
  return value.__jax_array__()


def of_one_dtype(*arrays: Array) -> tuple[Array, ...]:
  """Casts arrays to their widest dtype: bfloat16, float32 or float64."""
  dtype = jnp.result_type(*arrays)
  if dtype != _HALF:
    dtype = upcast_dtype(dtype)
  return tuple(x.astype(dtype) for x in arrays)


def same_shape(shape: str, **arrays: Array) -> tuple[Array, ...]:
  """Validates arrays as `floats` does, and that their shapes are equal."""
  arrays = {name: unwrapped(x) for name, x in arrays.items()}
  shapes = {name: np.shape(x) for name, x in arrays.items()}
  out = floats(arrays, shape)
  if len(set(shapes.values())) > 1:
    got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    raise ValueError(f"{got}: must have the same shape")
  return out


def prototypes(
  features: Mapping[str, Array], **matrices: Array
) -> tuple[Array, ...]:
  """Validates prototype matrices [k, d] against the features [..., d].

  Args:
    features: features by name, one array for each matrix.
    **matrices: prototype matrices by name.
  """
  matrices = {name: unwrapped(w) for name, w in matrices.items()}
  out = floats(matrices, "k d")
  for (name, x), (other, w) in zip(
    features.items(), matrices.items(), strict=True
  ):
    if w.shape[1] != x.shape[-1]:
      raise ValueError(
        f"{other} {w.shape} must have the width of {name} {x.shape}"
      )
  sizes = {name: len(w) for name, w in matrices.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f"expected equal numbers of prototypes, got {sizes}")
  return out


class Assignments(NamedTuple):
  """Arguments of a cross-entropy between two softmaxes over prototypes.

  Attributes:
    features: those of student and teacher.
    replicated: prototypes of both, the centre if there is one, temperatures of
      both.
  """

  features: tuple[Array, Array]
  replicated: tuple[Array, ...]


def assignments(
  student: Float[Array, "*n d"],
  teacher: Float[Array, "*m e"],
  student_prototypes: Float[Array, "k d"],
  teacher_prototypes: Float[Array, "k e"],
  center: Float[Array, "k"] | None = None,
  *,
  student_temperature: float | Scalar,
  teacher_temperature: float | Scalar,
) -> Assignments:
  """Validates prototypes, centre and temperatures against the features.

  All arrays become float64 if any is float64. Otherwise dtypes stay: features
  may be bfloat16 and prototypes float32, as products accumulate in float32.
  """
  arrays = prototypes(
    {"student": student, "teacher": teacher},
    student_prototypes=student_prototypes,
    teacher_prototypes=teacher_prototypes,
  )
  if center is not None:
    (center,) = floats({"center": center}, "k")
    if len(center) != len(arrays[0]):
      raise ValueError(
        f"center must be [k={len(arrays[0])}], one entry per prototype, got "
        f"{center.shape}"
      )
    arrays = (*arrays, center)
  student, teacher, *others = one_width(student, teacher, *arrays)
  temperatures = positive(
    student,
    student_temperature=student_temperature,
    teacher_temperature=teacher_temperature,
  )
  return Assignments((student, teacher), (*others, *temperatures))


def one_width(*arrays: Array) -> tuple[Array, ...]:
  """Casts all arrays to float64 if any is float64."""
  if jnp.result_type(*arrays) == jnp.float64:
    return tuple(x.astype(jnp.float64) for x in arrays)
  return arrays


def scalar(like: Array, **values: Scalar | float) -> tuple[Scalar, ...]:
  """Validates real scalars and casts them to the dtype of `like` or float32.

  Raises:
    TypeError: if one isn't a real number.
    ValueError: if one isn't a scalar.
  """
  dtype = upcast_dtype(like.dtype)
  values = {name: unwrapped(value) for name, value in values.items()}
  for name, value in values.items():
    numeric = isinstance(
      value, int | float | np.generic | jax.Array | np.ndarray
    )
    kind = jnp.result_type(value) if numeric else None
    if kind is None or not (
      jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    ):
      raise TypeError(f"{name} must be a real number, got {value!r}")
    if np.shape(value) != ():
      raise ValueError(f"{name} must be a scalar, got {np.shape(value)}")
  return tuple(jnp.asarray(value, dtype) for value in values.values())


def count(**values: int) -> None:
  """Raises unless all values are positive integers."""
  for name, value in values.items():
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
      raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")


def positive(like: Array, **values: Scalar | float) -> tuple[Scalar, ...]:
  """Validates scalars as `scalar` does, and that they are positive and finite.

  Raises:
    ValueError: if one isn't a scalar, or isn't positive and finite.
  """
  out = scalar(like, **values)
  for name, value in values.items():
    value = unwrapped(value)
    # Traced values are unknown.
    if not isinstance(value, jax.core.Tracer) and not 0 < float(value) < np.inf:
      raise ValueError(f"{name} must be positive and finite, got {value}")
  return out


def weights(
  weights: Float[Array, "n"] | None, rows: int, like: Array
) -> Float[Array, "n"] | None:
  """Validates weights of a loss's rows, in the dtype of its result.

  Raises:
    ValueError: if there isn't one weight per row, or one is negative or not
      finite.
  """
  if weights is None:
    return None
  (out,) = floats({"weights": weights}, "n")
  if len(out) != rows:
    raise ValueError(f"weights must have {rows} rows, got {len(out)}")
  _nonnegative("weights", out)
  return out.astype(upcast_dtype(like.dtype))


def mask(
  name: str, value: Array, shape: tuple[int, ...], letters: str, like: Array
) -> Float[Array, "*shape"]:
  """Validates a boolean mask or weights, and casts them to `like` or float32.

  Args:
    name: name of the argument.
    value: booleans, or finite nonnegative weights.
    shape: expected shape.
    letters: expected dimensions as letters, such as "b n".
    like: array of the result's dtype, at least float32.
  """
  dtype = upcast_dtype(like.dtype)
  value = unwrapped(value)
  if isinstance(value, jax.Array | np.ndarray) and value.dtype.kind == "b":
    value = value.astype(dtype)
  (out,) = floats({name: value}, letters)
  if out.shape != shape:
    raise ValueError(f"{name} must have shape {shape}, got {out.shape}")
  _nonnegative(name, out)
  return out.astype(dtype)


def _nonnegative(name: str, value: Array) -> None:
  if not isinstance(value, jax.core.Tracer):
    host = np.asarray(value)
    wrong = host[~((host >= 0) & (host < np.inf))]
    if len(wrong):
      raise ValueError(f"{name} must be finite and at least 0, got {wrong[0]}")


def at_least(
  layout: Layout, rows: int, **arrays: Float[Array, "b ..."]
) -> None:
  """Raises ValueError unless arrays have `rows` rows over all devices."""
  for name, x in arrays.items():
    total = layout.num_rows(len(x))
    if total < rows:
      raise ValueError(f"{name} must have at least {rows} rows, got {total}")
