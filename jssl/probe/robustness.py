"""The linear probe on corrupted test images.

It is fitted to features of clean train images. The 15 common corruptions change
the centre views of test images, on the device, at five severities.
"""

import time
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jssl import rng
from jssl.augment import CORRUPTIONS, center_view, corrupt
from jssl.augment.corruptions import SEVERITIES
from jssl.config.schema import Probe
from jssl.data import pipeline
from jssl.data.source import InMemory
from jssl.mesh import batch_sharding
from jssl.probe import splits
from jssl.probe.dataset import FeatureSet, ProbeDataset
from jssl.probe.records import RobustnessRecord
from jssl.probe.suite import fit_linear, vectors
from jssl.runtime import distributed
from jssl.typing import Images

_CLEAN = ("clean", 0)
_CASES = [(name, s) for name in CORRUPTIONS for s in SEVERITIES]


@partial(jax.jit, static_argnames=("name", "severity"))
def _corrupted(
  views: Images, first: Int[Array, ""] | int, *, name: str, severity: int
) -> Images:
  """Corrupts views whose keys depend on their row in the drawn images."""
  rows = first + jnp.arange(len(views))
  key = rng.stream(rng.root(0), name, severity)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  return corrupt(name, severity, keys, views)


def robustness_records(
  settings: Probe,
  features: FeatureSet,
  dataset: ProbeDataset,
  *,
  crop_size_px: int,
) -> list[RobustnessRecord]:
  """Measures accuracy on `probe.corrupted_images` random images of test.

  They are the same for all features; all of a smaller set.

  Raises:
    LabelsError: if labels do not allow a probe.
  """
  started = time.perf_counter()
  encoder, selected = features.encoder, features.selected(settings)
  splits.check_labels(selected.train, selected.test, dataset.name)
  fitted = fit_linear(settings, selected.train, selected.test, features.mesh)
  predict = cast(splits.Predict, fitted.predict)
  columns = features.columns(settings)
  source, mesh = dataset.test, dataset.global_mesh
  order = np.random.default_rng(0).permutation(len(source))
  drawn = source.fetch(np.sort(order[: settings.corrupted_images]))
  images = InMemory(
    source.name, source.class_names, drawn["image"], drawn["label"]
  )
  crop = jax.jit(partial(center_view, crop_size_px=crop_size_px))
  right = dict.fromkeys([_CLEAN, *_CASES], np.zeros(settings.seeds))
  first = 0
  for batch, real in pipeline.eval_batches(
    images,
    batch_size=settings.batch_size,
    sharding=batch_sharding(mesh),
  ):
    labels = distributed.to_host(batch["label"])[:real]
    views = crop(batch["image"])
    for case in right:
      changed = views
      if case != _CLEAN:
        changed = _corrupted(views, first, name=case[0], severity=case[1])
      # One case after the other: programs with collectives may deadlock on
      # several CPU devices.
      h = distributed.to_host(encoder.encode(changed))[:real, columns]
      found = predict(h.astype(np.float32)).labels
      right[case] = right[case] + (found == labels).sum(1)
    first += real
  accuracy = {case: count / len(images) for case, count in right.items()}
  clean = accuracy.pop(_CLEAN)
  corrupted = np.mean([*accuracy.values()], 0)
  by_name: dict[str, list[float]] = {}
  for (name, _), of_seeds in accuracy.items():
    by_name.setdefault(name, []).append(float(of_seeds.mean()))
  return [
    RobustnessRecord(
      **encoder.fields(dataset.name),
      vectors=vectors(settings, encoder.kind),
      seeds=settings.seeds,
      images_requested=settings.corrupted_images,
      images=len(images),
      image_size_px=crop_size_px,
      clean_accuracy=float(clean.mean()),
      clean_accuracy_std=float(clean.std()),
      corrupted_accuracy=float(corrupted.mean()),
      corrupted_accuracy_std=float(corrupted.std()),
      accuracy=by_name,
      seconds=time.perf_counter() - started,
      time=time.time(),
    )
  ]
