"""All probes of one set of features, in order."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jax.sharding import Mesh

from jssl.config.schema import Probe
from jssl.probe import knn, linear, mlp
from jssl.probe.features import Features
from jssl.probe.splits import Result

# Adam finds its way to the optimum of a convex loss from here, whatever l2.
_MINIBATCH_LINEAR_RATES = (3e-3,)


def fits_in_memory(
  settings: Probe, train: Features, label_fraction: float
) -> bool:
  """Whether the full-batch linear probe does: features and all logits."""
  rows, dim = train.h.shape
  members = settings.seeds * len(settings.linear_l2_values)
  copies = 1
  if label_fraction < 1:  # Then seeds have rows of their own, and folds.
    members, copies = members * linear.FOLDS, settings.seeds
  # Logits, their exponentials and the residuals are alive at once.
  numbers = 2 * copies * dim + 3 * members * train.num_classes
  limit = settings.memory_limit_gib * 2**30
  return 4 * label_fraction * rows * numbers <= limit


def fit_all(
  settings: Probe, train: Features, test: Features, mesh: Mesh
) -> Iterator[tuple[str, float, Result]]:
  """Yields `(probe, label fraction, result)` of all that is asked for."""
  minibatch = partial(
    mlp.probe,
    schedule=mlp.Schedule(
      settings.minibatch_size,
      settings.minibatch_epochs,
      settings.minibatch_min_steps,
    ),
  )

  def linear_probe(label_fraction: float) -> Callable[..., Result]:
    shared: dict[str, Any] = {
      "l2_values": settings.linear_l2_values,
      "label_fraction": label_fraction,
    }
    if fits_in_memory(settings, train, label_fraction):
      return partial(
        linear.probe,
        **shared,
        tolerance=settings.linear_tolerance,
        max_iterations=settings.linear_max_iterations,
      )
    return partial(
      minibatch,
      **shared,
      learning_rates=_MINIBATCH_LINEAR_RATES,
      hidden_dims=(),
    )

  knn_probe = partial(
    knn.probe,
    neighbours=settings.knn_neighbours,
    temperatures=settings.knn_temperatures,
  )
  mlp_probe = partial(
    minibatch,
    learning_rates=settings.mlp_learning_rates,
    l2_values=settings.mlp_l2_values,
    hidden_dims=settings.mlp_hidden_dims,
  )
  wanted: list[tuple[str, float, Callable[..., Result]]] = [
    ("linear", 1.0, linear_probe(1.0)),
    ("knn", 1.0, knn_probe),
    ("mlp", 1.0, mlp_probe),
    *(("linear", f, linear_probe(f)) for f in settings.label_fractions),
  ]
  for name, share, probe in wanted:
    if name in settings.probes:
      result = probe(
        train,
        test,
        mesh=mesh,
        seeds=settings.seeds,
        validation_fraction=settings.validation_fraction,
      )
      yield name, share, result
