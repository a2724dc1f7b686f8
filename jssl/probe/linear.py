"""The linear probe: multinomial logistic regression, a whole sweep at once.

Matrices have one column per image: classes then lead, and sums over them run
along contiguous images, which is what processors do well. All members of a
sweep read one matrix, so that their logits are one matmul.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jssl.mesh import AXES
from jssl.probe import splits
from jssl.probe.features import Features, Scaling, scaling
from jssl.probe.splits import Result
from jssl.typing import Scalar

# Too few rows to hold one split out of them are split so many times.
FOLDS = 5


class Linear(NamedTuple):
  """Logits are `w @ x + b`."""

  w: Float[Array, "k d"]
  b: Float[Array, "k"]

  def __call__(self, x: Float[Array, "d n"]) -> Float[Array, "k n"]:
    """Returns the logits of each column."""
    return self.w @ x + self.b[:, None]


class _State(NamedTuple):
  """Of Nesterov's method; `ahead` is where the next gradient is taken."""

  iteration: Int[Array, ""]
  current: Linear
  ahead: Linear
  age: Scalar
  decrement: Scalar


def _dot(a: Linear, b: Linear) -> Scalar:
  return jnp.vdot(a.w, b.w) + jnp.vdot(a.b, b.b)


def fit(
  x: Float[Array, "d n"],
  labels: Int[Array, "n"],
  weights: Float[Array, "n"],
  l2: Scalar | float,
  *,
  num_classes: int,
  tolerance: float,
  max_iterations: int,
) -> Linear:
  """Minimises mean_i CE(w x_i + b, label_i) + l2 / 2 |w|^2.

  The bias is free. Nesterov's method with the restart of O'Donoghue and Candès
  (2015, eq. 13), preconditioned by Böhning's bound (1992): wherever it is
  taken, the Hessian is at most (scatter / 2 + l2) in each class. So a whole
  step always descends, and no step size has to be searched.

  Args:
    x: one column per image.
    labels: class of each column.
    weights: of the columns in the mean; 0 leaves one out.
    l2: positive.
    num_classes: k.
    tolerance: of the gradient norm in the metric of the inverse bound; half
      its square is what one more step would gain at least.
    max_iterations: it stops there in any case.
  """
  weights = weights / jnp.sum(weights)
  # About the mean the bound has no cross terms between weights and bias.
  mean = x @ weights
  scatter = (x * weights[None]) @ x.T - jnp.outer(mean, mean)
  eigenvalues, basis = jnp.linalg.eigh(scatter)
  inverse = 1 / (jnp.maximum(eigenvalues, 0) / 2 + l2)

  def gradient(at: Linear) -> Linear:
    logits = Linear(at.w, at.b - at.w @ mean)(x)
    target = jnp.arange(num_classes)[:, None] == labels[None]
    residual = (jax.nn.softmax(logits, axis=0) - target) * weights[None]
    b = residual.sum(1)
    return Linear(residual @ x.T - jnp.outer(b, mean) + l2 * at.w, b)

  def step(state: _State) -> _State:
    g = gradient(state.ahead)
    move = Linear(((g.w @ basis) * inverse[None]) @ basis.T, 2 * g.b)
    new = jax.tree.map(jnp.subtract, state.ahead, move)
    change = jax.tree.map(jnp.subtract, new, state.current)
    uphill = _dot(g, change) > 0
    age = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * state.age**2)) / 2)
    momentum = jnp.where(uphill, 0.0, (state.age - 1) / age)
    ahead = jax.tree.map(lambda n, c: n + momentum * c, new, change)
    decrement = jnp.sqrt(_dot(g, move))
    return _State(state.iteration + 1, new, ahead, age, decrement)

  def running(state: _State) -> Bool[Array, ""]:
    unfinished = state.iteration < max_iterations
    return unfinished & (state.decrement > tolerance)

  zero = Linear(
    jnp.zeros((num_classes, x.shape[0]), x.dtype),
    jnp.zeros(num_classes, x.dtype),
  )
  one, far = jnp.ones((), x.dtype), jnp.full((), jnp.inf, x.dtype)
  start = _State(jnp.zeros((), jnp.int32), zero, zero, one, far)
  found = jax.lax.while_loop(running, step, start).current
  return Linear(found.w, found.b - found.w @ mean)


class _Columns(NamedTuple):
  """Standardised features on the mesh, one column per image.

  All have a leading axis where each seed has images of its own.

  Attributes:
    x: features.
    labels: class of each column.
    real: False for the columns that fill up the last device.
  """

  x: Float[Array, "*s d n"]
  labels: Int[Array, "*s n"]
  real: Bool[Array, "*s n"]

  @property
  def seed_axis(self) -> int | None:
    """What to map over for a seed: None where all share the images."""
    return 0 if self.x.ndim == 3 else None


def _fill(a: np.ndarray, mesh: Mesh) -> jax.Array:
  """Splits the last axis over the mesh, filled up with zeros."""
  widths = [(0, 0)] * (a.ndim - 1) + [(0, -a.shape[-1] % mesh.size)]
  spec = P(*[None] * (a.ndim - 1), AXES)
  return jax.device_put(np.pad(a, widths), NamedSharding(mesh, spec))


def _columns(
  features: Features,
  scale: Scaling,
  mesh: Mesh,
  rows: Int[np.ndarray, "s n"] | slice = slice(None),
) -> _Columns:
  labels = features.labels[rows]
  return _Columns(
    x=_fill(np.swapaxes(scale(features.h[rows]), -1, -2), mesh),
    labels=_fill(labels, mesh),
    real=_fill(np.ones(labels.shape, bool), mesh),
  )


def _count_right(
  model: Linear,
  x: Float[Array, "d n"],
  labels: Int[Array, "n"],
  counted: Bool[Array, "n"],
) -> Int[Array, ""]:
  right = jnp.argmax(model(x), axis=0) == labels
  return jnp.sum(right & counted)


_jit = partial(
  jax.jit, static_argnames=("num_classes", "tolerance", "max_iterations")
)


@_jit
def _validate(
  train: _Columns,
  held_out: Bool[Array, "s f n"],
  l2_values: Float[Array, "m"],
  **settings: Any,
) -> Float[Array, "s m"]:
  """Returns the accuracy of each member on the rows held out of its fit."""

  def member(train: _Columns, held_out: Array, l2: Array) -> Array:
    weights = (train.real & ~held_out).astype(train.x.dtype)
    model = fit(train.x, train.labels, weights, l2, **settings)
    return _count_right(model, train.x, train.labels, held_out)

  over_values = jax.vmap(member, (None, None, 0))
  over_folds = jax.vmap(over_values, (None, 0, None))
  over_seeds = jax.vmap(over_folds, (train.seed_axis, 0, None))
  right = over_seeds(train, held_out, l2_values).sum(1)
  return right / held_out.sum((1, 2))[:, None]


@_jit
def _test(
  train: _Columns, test: _Columns, l2: Float[Array, "s"], **settings: Any
) -> Float[Array, "s"]:
  """Returns the test accuracy of each seed's l2, fitted to all of train."""

  def member(train: _Columns, l2: Array) -> Array:
    weights = train.real.astype(train.x.dtype)
    model = fit(train.x, train.labels, weights, l2, **settings)
    return _count_right(model, test.x, test.labels, test.real)

  right = jax.vmap(member, (train.seed_axis, 0))(train, l2)
  return right / test.real.sum()


def probe(
  train: Features,
  test: Features,
  *,
  mesh: Mesh,
  seeds: int,
  l2_values: tuple[float, ...],
  validation_fraction: float,
  tolerance: float,
  max_iterations: int,
  label_fraction: float = 1.0,
) -> Result:
  """Chooses l2 on rows held out of train, fits all of train, reads test once.

  With few labels each seed draws its own labelled rows, and the choice is made
  by cross-validation within them. Features are standardised by the whole of
  train, which takes no labels.

  Args:
    train: features and labels to fit.
    test: the same of the test set.
    mesh: the rows are split over it.
    seeds: number of splits.
    l2_values: penalties to choose from, each positive.
    validation_fraction: of train that is held out to choose.
    tolerance: see `fit`.
    max_iterations: see `fit`.
    label_fraction: of train whose labels may be seen.
  """
  rows: Int[np.ndarray, "s n"] | slice = slice(None)
  if label_fraction < 1:
    rows = np.stack(
      [
        splits.subset(train.labels, fraction=label_fraction, seed=seed)
        for seed in range(seeds)
      ]
    )
    held_out = np.stack(
      [
        splits.folds(train.labels[rows[seed]], count=FOLDS, seed=seed)
        for seed in range(seeds)
      ]
    )
  else:
    held_out = np.stack(
      [
        splits.hold_out(train.labels, fraction=validation_fraction, seed=seed)
        for seed in range(seeds)
      ]
    )[:, None]
  scale = scaling(train.h)
  data = _columns(train, scale, mesh, rows)
  values = np.asarray(l2_values, np.float32)
  settings = {
    "num_classes": train.num_classes,
    "tolerance": tolerance,
    "max_iterations": max_iterations,
  }
  with jax.default_matmul_precision("highest"):
    validation = np.asarray(
      _validate(data, _fill(held_out, mesh), values, **settings)
    )
    best = splits.best(validation)
    accuracy = _test(
      data, _columns(test, scale, mesh), values[best], **settings
    )
  return Result(
    test_accuracy=np.asarray(accuracy),
    validation_accuracy=validation.max(1),
    chosen={"l2": [l2_values[i] for i in best]},
  )
