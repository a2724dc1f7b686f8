"""All probes of one set of features, in order."""

from collections.abc import Iterator
from typing import Any

from jax.sharding import Mesh

from jssl.probe import knn, linear, mlp
from jssl.probe.features import Features
from jssl.probe.selection import Result
from jssl.sections import Probe

# Adam finds its way to the optimum of a convex loss from here, whatever l2.
_MINIBATCH_LINEAR_RATES = (3e-3,)


def fits_in_memory(settings: Probe, train: Features) -> bool:
  """Whether a full batch does: features, and logits of the whole sweep."""
  rows, dim = train.h.shape
  members = settings.seeds * len(settings.linear_l2_values)
  # Logits, their exponentials and the residuals are alive at once.
  floats = rows * (2 * dim + 3 * members * train.num_classes)
  return 4 * floats <= settings.memory_limit_gib * 2**30


def fit_all(
  settings: Probe, train: Features, test: Features, mesh: Mesh
) -> Iterator[tuple[str, float, Result]]:
  """Yields `(probe, label fraction, result)` of all that is asked for."""
  shared: dict[str, Any] = {
    "mesh": mesh,
    "seeds": settings.seeds,
    "validation_fraction": settings.validation_fraction,
  }
  full_batch = {
    **shared,
    "l2_values": settings.linear_l2_values,
    "tolerance": settings.linear_tolerance,
    "max_iterations": settings.linear_max_iterations,
  }
  schedule = mlp.Schedule(
    settings.minibatch_size,
    settings.minibatch_epochs,
    settings.minibatch_min_steps,
  )
  if "linear" in settings.probes and fits_in_memory(settings, train):
    yield "linear", 1.0, linear.probe(train, test, **full_batch)
  elif "linear" in settings.probes:
    yield (
      "linear",
      1.0,
      mlp.probe(
        train,
        test,
        **shared,
        learning_rates=_MINIBATCH_LINEAR_RATES,
        l2_values=settings.linear_l2_values,
        hidden_dims=(),
        schedule=schedule,
      ),
    )
  if "knn" in settings.probes:
    yield (
      "knn",
      1.0,
      knn.probe(
        train,
        test,
        **shared,
        neighbours=settings.knn_neighbours,
        temperature=settings.knn_temperature,
      ),
    )
  if "mlp" in settings.probes:
    yield (
      "mlp",
      1.0,
      mlp.probe(
        train,
        test,
        **shared,
        learning_rates=settings.mlp_learning_rates,
        l2_values=settings.mlp_l2_values,
        hidden_dims=settings.mlp_hidden_dims,
        schedule=schedule,
      ),
    )
  if "linear" in settings.probes:
    for share in settings.label_fractions:
      yield (
        "linear",
        share,
        linear.probe(train, test, **full_batch, label_fraction=share),
      )
