"""Probes trained in minibatches: the MLP, and the linear one on large sets.

All seeds and hyper-parameters of a sweep train on the same minibatches, so that
their first layers are one matmul. Rows held out by a seed have weight zero.
"""

import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl import rng
from jssl.config.schema import Probe
from jssl.mesh import batch_sharding
from jssl.probe import splits
from jssl.probe.features import Features, Scaling, scaling
from jssl.probe.splits import Predictions, Result
from jssl.typing import Key, PyTree, Scalar

_EVAL_ROWS = 4096


class Layer(NamedTuple):
  """`x @ w + b`."""

  w: Float[Array, "i o"]
  b: Float[Array, "o"]


Network = tuple[Layer, ...]


class Member(NamedTuple):
  """Hyper-parameters of one member, or [s, m] of a sweep."""

  learning_rate: Float[np.ndarray, "*m"]
  l2: Float[np.ndarray, "*m"]


def init(key: Key, sizes: tuple[int, ...]) -> Network:
  """Initialises a network: He et al. (2015), with a zero output layer."""
  *hidden, output = itertools.pairwise(sizes)
  layers = [
    Layer(
      jax.random.normal(rng.stream(key, "layer", i), (inputs, outputs))
      * math.sqrt(2 / inputs),
      jnp.zeros(outputs),
    )
    for i, (inputs, outputs) in enumerate(hidden)
  ]
  return (*layers, Layer(jnp.zeros(output), jnp.zeros(output[1])))


def logits(network: Network, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
  """Returns the logits of standardised features."""
  for i, layer in enumerate(network):
    x = (jax.nn.relu(x) if i else x) @ layer.w + layer.b[None]
  return x


def _loss(
  network: Network, member: Member, x: Array, labels: Array, weights: Array
) -> Scalar:
  """Returns the weighted mean CE + l2 / 2 |w|^2, biases not penalised."""
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits(network, x), labels
  )
  # A seed may hold out all rows of a small batch.
  mean = jnp.sum(losses * weights) / jnp.maximum(jnp.sum(weights), 1)
  squares = sum(jnp.sum(layer.w**2) for layer in network)
  return mean + member.l2 / 2 * squares


@partial(jax.jit, static_argnums=(0, 1, 2))
def _start(
  seeds: int, members: int, sizes: tuple[int, ...]
) -> tuple[Network, PyTree]:
  """Returns networks and moments [s, m], equal for all members of a seed."""

  def one(seed: Array) -> tuple[Network, PyTree]:
    network = init(rng.stream(rng.root(0), "probe", seed), sizes)
    return network, optax.scale_by_adam().init(network)

  alike = jax.vmap(one, in_axes=None, axis_size=members)
  return jax.vmap(alike)(jnp.arange(seeds))


@partial(jax.jit, donate_argnames=("networks", "moments"))
def _step(
  networks: Network,
  moments: PyTree,
  members: Member,
  x: Float[Array, "b d"],
  labels: Int[Array, "b"],
  fitted: Bool[Array, "s b"],
  progress: Scalar,
) -> tuple[Network, PyTree]:
  """Takes one Adam step; `progress` in [0, 1] sets the cosine schedule."""

  def one(
    network: Network, moment: PyTree, member: Member, weights: Array
  ) -> tuple[Network, PyTree]:
    gradient = jax.grad(_loss)(network, member, x, labels, weights)
    updates, moment = optax.scale_by_adam().update(gradient, moment)
    rate = member.learning_rate * (1 + jnp.cos(jnp.pi * progress)) / 2
    return jax.tree.map(lambda p, u: p - rate * u, network, updates), moment

  of_seed = jax.vmap(one, (0, 0, 0, None))
  return jax.vmap(of_seed)(networks, moments, members, fitted.astype(x.dtype))


@jax.jit
def _count_right(
  networks: Network,
  x: Float[Array, "b d"],
  labels: Int[Array, "b"],
  counted: Bool[Array, "s b"],
) -> Int[Array, "s m"]:
  def one(network: Network, counted: Array) -> Array:
    return jnp.sum((logits(network, x).argmax(1) == labels) & counted)

  return jax.vmap(jax.vmap(one, (0, None)))(networks, counted)


def fit(
  features: Features,
  scale: Scaling,
  fitted: Bool[np.ndarray, "s n"],
  members: Member,
  *,
  hidden_dims: tuple[int, ...],
  settings: Probe,
  mesh: Mesh,
) -> Network:
  """Trains a network for each seed and member, with Adam and a cosine decay.

  Each seed trains on its `fitted` rows. No hidden layers make a linear probe.

  Returns:
    Networks with leading axes [s, m]. Seeds have different initial weights and
    rows, but the same order of minibatches.

  Raises:
    ValueError: if a minibatch has fewer rows than there are devices.
  """
  rows = np.flatnonzero(fitted.any(0))
  batch = min(settings.minibatch_size, len(rows)) // mesh.size * mesh.size
  if not batch:
    raise ValueError(
      f"probe.minibatch_size={settings.minibatch_size} or the number of "
      f"training images, {len(rows)}, is smaller than the number of devices, "
      f"{mesh.size}"
    )
  per_epoch = len(rows) // batch
  steps = max(
    settings.minibatch_min_steps, settings.minibatch_epochs * per_epoch
  )
  sizes = (features.h.shape[1], *hidden_dims, features.num_classes)
  state = _start(*members.l2.shape, sizes)
  order = np.random.default_rng(0)
  by_row = batch_sharding(mesh)
  by_column = jax.NamedSharding(mesh, jax.P(None, *by_row.spec))
  for i in range(steps):
    if i % per_epoch == 0:
      shuffled = order.permutation(rows)
    start_row = i % per_epoch * batch
    # Ascending rows are faster to read from a file.
    drawn = np.sort(shuffled[start_row : start_row + batch])
    state = _step(
      *state,
      members,
      jax.device_put(scale(features.h[drawn]), by_row),
      jax.device_put(features.labels[drawn], by_row),
      jax.device_put(fitted[:, drawn], by_column),
      i / steps,
    )
  return state[0]


def accuracy(
  networks: Network,
  features: Features,
  scale: Scaling,
  counted: Bool[np.ndarray, "s n"],
) -> Float[np.ndarray, "s m"]:
  """Returns the accuracy of each network on the counted rows."""
  right = np.zeros(())
  for start in range(0, len(features.labels), _EVAL_ROWS):
    rows = slice(start, start + _EVAL_ROWS)
    right = right + np.asarray(
      _count_right(
        networks,
        scale(features.h[rows]),
        features.labels[rows],
        counted[:, rows],
      )
    )
  return right / counted.sum(1)[:, None]


@jax.jit
def _predict(
  networks: Network, x: Float[Array, "b d"]
) -> tuple[Int[Array, "s b"], Float[Array, "s b"]]:
  found = jax.vmap(logits, (0, None))(networks, x)
  return found.argmax(2), jax.nn.softmax(found).max(2)


def _predictions(
  networks: Network, scale: Scaling, h: Float[np.ndarray, "n d"]
) -> Predictions:
  """Applies the network of each seed to features."""
  with jax.default_matmul_precision("highest"):
    blocks = [
      _predict(networks, scale(h[start : start + _EVAL_ROWS]))
      for start in range(0, len(h), _EVAL_ROWS)
    ]
  found = zip(*blocks, strict=True)
  return Predictions(*(np.concatenate(arrays, 1) for arrays in found))


def probe(
  train: Features,
  test: Features,
  settings: Probe,
  *,
  mesh: Mesh,
  learning_rates: tuple[float, ...],
  l2_values: tuple[float, ...],
  hidden_dims: tuple[int, ...],
  label_fraction: float = 1.0,
) -> Result:
  """Chooses on held-out rows, fits all of train, evaluates test once.

  Tries all combinations of learning rates and l2 penalties.
  """
  seeds = settings.seeds
  labelled, held_out = np.zeros((2, seeds, len(train.labels)), bool)
  for seed in range(seeds):
    rows = np.arange(len(train.labels))
    if label_fraction < 1:
      rows = splits.subset(train.labels, fraction=label_fraction, seed=seed)
    labelled[seed, rows] = True
    held_out[seed, rows] = splits.hold_out(
      train.labels[rows], fraction=settings.validation_fraction, seed=seed
    )
  candidates = [
    {"learning_rate": rate, "l2": l2}
    for rate, l2 in itertools.product(learning_rates, l2_values)
  ]
  grid = np.array([[*c.values()] for c in candidates], np.float32)
  scale = scaling(train.h)
  trained = partial(
    fit, train, scale, hidden_dims=hidden_dims, settings=settings, mesh=mesh
  )
  with jax.default_matmul_precision("highest"):
    sweep = Member(*np.tile(grid.T[:, None], (1, seeds, 1)))
    networks = trained(labelled & ~held_out, sweep)
    validation = accuracy(networks, train, scale, held_out)
    chosen = Member(*grid[splits.best(validation)].T[..., None])
    networks = trained(labelled, chosen)
  networks = jax.tree.map(lambda x: x[:, 0], networks)
  predict = partial(_predictions, networks, scale)
  test_accuracy = (predict(test.h).labels == test.labels).mean(1)
  return splits.result(candidates, validation, test_accuracy, predict)
