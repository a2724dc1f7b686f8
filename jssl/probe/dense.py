"""The dense probe: segmentation of images from frozen patch tokens.

A linear head and kNN give each patch scores of the classes. The scores are
upsampled bilinearly to pixels; mean IoU and pixel accuracy are per pixel of the
centre view.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.config.schema import Probe
from jssl.diagnostics import neighbours
from jssl.probe import linear, splits
from jssl.probe.dataset import ProbeDataset
from jssl.probe.encoders import Encoder
from jssl.probe.features import scaling
from jssl.probe.linear import Linear
from jssl.probe.patches import (
  Confusion,
  Patches,
  confusion,
  mean_iou,
  read,
  shares,
)
from jssl.probe.records import DenseRecord


class Result(NamedTuple):
  """Scores in [0, 1] and chosen hyper-parameters, one entry per seed."""

  mean_iou: Float[np.ndarray, "s"]
  pixel_accuracy: Float[np.ndarray, "s"]
  validation_iou: Float[np.ndarray, "s"]
  chosen: dict[str, list[Any]]


def _result(
  candidates: Sequence[dict[str, Any]],
  validation_iou: Float[np.ndarray, "s m"],
  test: Sequence[Confusion],
) -> Result:
  """Returns the scores of the best candidate of each seed."""
  iou = np.array([mean_iou(counts) for counts in test])
  best = splits.result(candidates, validation_iou, iou)
  accuracy = np.array([np.trace(counts) / counts.sum() for counts in test])
  return Result(iou, accuracy, best.validation_accuracy, best.chosen)


def _shares(train: Patches, test: Patches) -> Float[np.ndarray, "rows k"]:
  """Returns the shares of the classes of both splits in training patches."""
  num_classes = 1 + int(max(train.masks.max(), test.masks.max()))
  side = round(train.tokens.shape[1] ** 0.5)
  return _flat(shares(train.masks, side, num_classes))


def _flat(array: Float[np.ndarray, "n p d"]) -> Float[np.ndarray, "rows d"]:
  return array.reshape(-1, array.shape[-1])


@partial(
  jax.jit, static_argnames=("num_classes", "tolerance", "max_iterations")
)
def _fit(
  x: Float[Array, "d n"],
  labels: Int[Array, "n"],
  weights: Float[Array, "n"],
  l2_values: Float[Array, "m"],
  **settings: Any,
) -> Linear:
  """Fits one head for each L2 penalty."""
  return jax.vmap(lambda l2: linear.fit(x, labels, weights, l2, **settings))(
    l2_values
  )


def fit_linear(
  train: Patches,
  test: Patches,
  held_out: Bool[np.ndarray, "s n"],
  settings: Probe,
  *,
  mesh: Mesh,
) -> Result:
  """Chooses l2 on held-out images, fits all of train, evaluates test once.

  The loss is the cross-entropy of each pixel, whose features are the token of
  its patch: each patch is one row per class in it, weighted by its share.
  """
  tokens, of_class = _flat(train.tokens), _shares(train, test)
  patch, label = np.nonzero(of_class)
  weights = of_class[patch, label]
  image = patch // train.tokens.shape[1]
  scale = scaling(tokens)
  x = linear.pad_and_shard(scale(tokens)[patch].T, mesh)
  labels = linear.pad_and_shard(label.astype(np.int32), mesh)
  values = np.asarray(settings.linear_l2_values, np.float32)

  def fit(weights: np.ndarray, l2: np.ndarray) -> list[Linear]:
    heads = _fit(
      x,
      labels,
      linear.pad_and_shard(weights, mesh),
      l2,
      num_classes=of_class.shape[1],
      tolerance=settings.linear_tolerance,
      max_iterations=settings.linear_max_iterations,
    )
    w, b = map(np.asarray, heads)
    return [Linear(*head) for head in zip(w, b, strict=True)]

  def confusions(heads: Sequence[Linear], on: Patches) -> list[Confusion]:
    h = scale(on.tokens)
    return [
      np.asarray(confusion(h @ head.w.T + head.b, on.masks)) for head in heads
    ]

  with jax.default_matmul_precision("highest"):
    validation = np.array(
      [
        [
          mean_iou(counts)
          for counts in confusions(
            fit(weights * ~held[image], values), train.of(held)
          )
        ]
        for held in held_out
      ]
    )
    heads = fit(weights, values[splits.best(validation)])
  candidates = [{"l2": value} for value in settings.linear_l2_values]
  return _result(candidates, validation, confusions(heads, test))


def fit_knn(
  train: Patches,
  test: Patches,
  held_out: Bool[np.ndarray, "s n"],
  settings: Probe,
  *,
  mesh: Mesh,
) -> Result:
  """Chooses scaling and k on held-out images, evaluates test once.

  The scores of a patch are the mean shares of its nearest training patches, by
  the cosine of their tokens.
  """
  tokens, of_class = _flat(train.tokens), _shares(train, test)
  patches = train.tokens.shape[1]
  rows = patches * int((~held_out).sum(1).min())
  scales: dict[str, Any] = {"none": np.asarray, "standardised": scaling(tokens)}
  candidates = [
    {"scale": scale, "neighbours": k}
    for scale in scales
    for k in sorted({min(k, rows) for k in settings.knn_neighbours})
  ]

  def confusions(
    chosen: Sequence[int], on: Patches, counted: Bool[np.ndarray, "n"]
  ) -> dict[int, Confusion]:
    """Returns the confusion of each candidate in `chosen`."""
    found = {}
    for scale, function in scales.items():
      members = {
        i: candidates[i]["neighbours"]
        for i in chosen
        if candidates[i]["scale"] == scale
      }
      if not members:
        continue
      votes: dict[int, list[np.ndarray]] = {i: [] for i in members}
      for block in neighbours.search(
        _flat(on.tokens),
        tokens,
        np.repeat(counted, patches),
        count=max(members.values()),
        mesh=mesh,
        scale=function,
      ):
        nearest = of_class[np.asarray(block.rows)]
        for i, k in members.items():
          votes[i].append(nearest[:, :k].mean(1))
      for i, of_blocks in votes.items():
        # Without the padding of the last block.
        scores = np.concatenate(of_blocks)[: on.tokens[..., 0].size]
        shape = (*on.tokens.shape[:2], -1)
        found[i] = np.asarray(confusion(scores.reshape(shape), on.masks))
    return found

  validation = np.array(
    [
      [
        mean_iou(counts)
        for _, counts in sorted(
          confusions(range(len(candidates)), train.of(held), ~held).items()
        )
      ]
      for held in held_out
    ]
  )
  best = splits.best(validation)
  everything = np.ones(len(train.tokens), bool)
  of_test = confusions(sorted(set(best.tolist())), test, everything)
  return _result(candidates, validation, [of_test[i] for i in best])


def dense_records(
  settings: Probe,
  encoder: Encoder,
  dataset: ProbeDataset,
  *,
  crop_size_px: int,
) -> list[DenseRecord]:
  """Fits both heads and returns their records.

  Raises:
    ValueError: if the encoder has no tokens or a split no masks.
  """
  fit_to, evaluated = (
    read(
      source,
      encoder,
      images=settings.dense_images,
      crop_size_px=crop_size_px,
      batch_size=settings.batch_size,
      mesh=dataset.global_mesh,
    )
    for source in (dataset.train, dataset.test)
  )
  # One class, because images may have no label.
  held_out = splits.hold_out_each(
    np.zeros(len(fit_to.tokens), np.int32), settings
  )
  records = []
  for probe, fit in (("linear", fit_linear), ("knn", fit_knn)):
    started = time.perf_counter()
    found = fit(fit_to, evaluated, held_out, settings, mesh=dataset.mesh)
    records.append(
      DenseRecord(
        **encoder.fields(dataset.name),
        probe=probe,
        mean_iou=float(found.mean_iou.mean()),
        mean_iou_std=float(found.mean_iou.std()),
        pixel_accuracy=float(found.pixel_accuracy.mean()),
        pixel_accuracy_std=float(found.pixel_accuracy.std()),
        validation_iou=float(found.validation_iou.mean()),
        seeds=settings.seeds,
        images_requested=settings.dense_images,
        images=len(fit_to.tokens),
        test_images=len(evaluated.tokens),
        patches=fit_to.tokens.shape[1],
        chosen=found.chosen,
        seconds=time.perf_counter() - started,
        time=time.time(),
      )
    )
  return records
