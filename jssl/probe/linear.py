"""The linear probe: multinomial logistic regression, a whole sweep at once.

Matrices have one column per image, so that sums over classes run along
contiguous images. All members of a sweep read one matrix, so that their logits
are one matmul.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jssl.config.schema import Probe
from jssl.mesh import AXES
from jssl.probe import splits
from jssl.probe.features import Features, Scaling, scaling
from jssl.probe.splits import Predictions, Result
from jssl.typing import Scalar

# Cross-validation folds with few labels, where one held-out split is too small.
FOLDS = 5


class Linear(NamedTuple):
  """Logits are `w @ x + b`."""

  w: Float[Array, "k d"]
  b: Float[Array, "k"]

  def __call__(self, x: Float[Array, "d n"]) -> Float[Array, "k n"]:
    """Returns the logits of each column."""
    return self.w @ x + self.b[:, None]


class _State(NamedTuple):
  """State of Nesterov's method; `ahead` is the point of the next gradient."""

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

  The bias is not penalised. Uses Nesterov's method with the restart of
  O'Donoghue and Candès (2015, eq. 13), preconditioned by Böhning's bound
  (1992): the Hessian is at most (scatter / 2 + l2) in each class everywhere. A
  full step always descends, so there is no step size to search.

  Stops at a gradient norm of `tolerance`, in the metric of the inverse bound;
  one more step would gain at least half its square. `weights` are those of the
  columns in the mean; 0 leaves a column out.
  """
  weights = weights / jnp.sum(weights)
  # With centred columns the bound has no cross terms of weights and bias.
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

  Arrays have a leading axis if each seed has its own images. Padding has the
  label -1.
  """

  x: Float[Array, "*s d n"]
  labels: Int[Array, "*s n"]

  @property
  def seed_axis(self) -> int | None:
    """Axis to map over for seeds; None if they share the images."""
    return 0 if self.x.ndim == 3 else None


def pad_and_shard(a: np.ndarray, mesh: Mesh, value: int = 0) -> jax.Array:
  """Pads the last axis and shards it over the mesh."""
  widths = [(0, 0)] * (a.ndim - 1) + [(0, -a.shape[-1] % mesh.size)]
  padded = np.pad(a, widths, constant_values=value)
  spec = P(*[None] * (a.ndim - 1), AXES)
  return jax.device_put(padded, NamedSharding(mesh, spec))


def _columns(
  features: Features,
  scale: Scaling,
  mesh: Mesh,
  rows: Int[np.ndarray, "s n"] | slice = slice(None),
) -> _Columns:
  x = np.swapaxes(scale(features.h[rows]), -1, -2)
  labels = pad_and_shard(features.labels[rows], mesh, -1)
  return _Columns(pad_and_shard(x, mesh), labels)


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
  """Returns the accuracy of each member on its held-out rows."""

  def member(train: _Columns, held_out: Array, l2: Array) -> Array:
    weights = ((train.labels >= 0) & ~held_out).astype(train.x.dtype)
    model = fit(train.x, train.labels, weights, l2, **settings)
    right = jnp.argmax(model(train.x), axis=0) == train.labels
    return jnp.sum(right & held_out)

  over_values = jax.vmap(member, (None, None, 0))
  over_folds = jax.vmap(over_values, (None, 0, None))
  over_seeds = jax.vmap(over_folds, (train.seed_axis, 0, None))
  right = over_seeds(train, held_out, l2_values).sum(1)
  return right / held_out.sum((1, 2))[:, None]


@_jit
def _fit_chosen(
  train: _Columns, l2: Float[Array, "s"], **settings: Any
) -> Linear:
  """Fits each seed's l2 to all of train."""

  def member(train: _Columns, l2: Array) -> Linear:
    weights = (train.labels >= 0).astype(train.x.dtype)
    return fit(train.x, train.labels, weights, l2, **settings)

  return jax.vmap(member, (train.seed_axis, 0))(train, l2)


@jax.jit
def _predict(
  models: Linear, x: Float[Array, "d n"]
) -> tuple[Int[Array, "s n"], Float[Array, "s n"]]:
  logits = jax.vmap(Linear.__call__, (0, None))(models, x)
  return logits.argmax(1), jax.nn.softmax(logits, axis=1).max(1)


def _predictions(
  models: Linear, scale: Scaling, mesh: Mesh, h: Float[np.ndarray, "n d"]
) -> Predictions:
  """Applies the model of each seed to features."""
  with jax.default_matmul_precision("highest"):
    found = _predict(models, pad_and_shard(scale(h).T, mesh))
  return Predictions(*(np.asarray(a)[:, : len(h)] for a in found))


def probe(
  train: Features,
  test: Features,
  settings: Probe,
  *,
  mesh: Mesh,
  label_fraction: float = 1.0,
) -> Result:
  """Chooses l2 on held-out rows, fits all of train, evaluates test once.

  With a label fraction below 1 each seed draws its own labelled rows and
  chooses by cross-validation. Features are standardised with all of train,
  which needs no labels.
  """
  labels, seeds = train.labels, range(settings.seeds)
  rows: Int[np.ndarray, "s n"] | slice = slice(None)
  if label_fraction < 1:
    rows = np.stack(
      [splits.subset(labels, fraction=label_fraction, seed=s) for s in seeds]
    )
    held_out = np.stack(
      [splits.folds(labels[rows[s]], count=FOLDS, seed=s) for s in seeds]
    )
  else:
    held_out = splits.hold_out_each(labels, settings)[:, None]
  scale = scaling(train.h)
  data = _columns(train, scale, mesh, rows)
  values = np.asarray(settings.linear_l2_values, np.float32)
  options = {
    "num_classes": train.num_classes,
    "tolerance": settings.linear_tolerance,
    "max_iterations": settings.linear_max_iterations,
  }
  with jax.default_matmul_precision("highest"):
    validation = np.asarray(
      _validate(data, pad_and_shard(held_out, mesh), values, **options)
    )
    l2 = values[splits.best(validation)]
    models = _fit_chosen(data, l2, **options)
  predict = partial(_predictions, models, scale, mesh)
  accuracy = (predict(test.h).labels == test.labels).mean(1)
  candidates = [{"l2": value} for value in settings.linear_l2_values]
  return splits.result(candidates, validation, accuracy, predict)
