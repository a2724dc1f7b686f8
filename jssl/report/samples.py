"""Augmented views of some images, and a map of test features."""

import base64
import io
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from jssl import rng
from jssl.augment import views
from jssl.config.schema import Config, Data
from jssl.data.open import open_source
from jssl.data.source import Source
from jssl.probe import features
from jssl.report.read import Run


class Labelled(NamedTuple):
  """Test features and their classes."""

  h: Float[np.ndarray, "n d"]
  labels: Int[np.ndarray, "n"]
  class_names: tuple[str, ...]


_SEED = 0


def _some(rows: Int[np.ndarray, "n"], limit: int) -> Int[np.ndarray, "m"]:
  """Draws at most `limit` rows, deterministically."""
  generator = np.random.default_rng(_SEED)
  return generator.choice(rows, min(limit, len(rows)), replace=False)


def _source(data: Data, name: str, split: str) -> Source:
  """Opens a split without reading it into memory."""
  return open_source(
    name, data_dir=data.data_dir, split=split, image_size_px=data.image_size_px
  )


def augmented(
  config: Config, *, images: int, num_views: int
) -> tuple[UInt8[np.ndarray, "b h w c"], UInt8[np.ndarray, "v b crop crop c"]]:
  """Returns training images and their large uint8 views, as drawn at step 0.

  If views have different probabilities, the requested ones cycle through them.

  Raises:
    FileNotFoundError: if the data set is not prepared.
    ValueError, TypeError: if the config is invalid.
  """
  data = config.data
  source = _source(data, data.name, data.split)
  rows = _some(np.arange(len(source)), images)
  pixels = source.fetch(rows)["image"]
  root = rng.root(config.seed)
  keys = rng.per_row(rng.stream(root, "augment"), len(rows))
  augment = config.augment.of_large_views(num_views)
  draw = jax.jit(
    lambda keys, pixels: views(augment, keys, pixels, num_views)[0],
    # Optimising would take longer than it saves for a few images.
    compiler_options={"xla_backend_optimization_level": 0},
  )
  drawn = draw(keys, pixels)
  return pixels, np.asarray(jnp.rint(255 * drawn)).astype(np.uint8)


def cached_features(
  run: Run,
  dataset: str,
  *,
  step: int,
  limit: int,
  classes: int,
  backbone: str = "student",
) -> Labelled | None:
  """Returns a random sample of the test features that a probe cached.

  Leaves out all but the first `classes`. None if fewer than 4 are cached.
  `backbone` is that of the records.
  """
  name = f"step{step}-teacher" if backbone == "teacher" else f"step{step}"
  data = run.config.data
  # The probe tests on "test" if the set is not that of the run.
  split = data.test_split if dataset == data.name else "test"
  pattern = features.path(
    run.workdir, dataset=dataset, split=split, name=name, key="*"
  )
  paths = sorted(pattern.parent.glob(pattern.name), key=os.path.getmtime)
  found = features.cached(paths[-1], num_classes=0) if paths else None
  if found is None:
    return None
  h, labels, _ = found
  rows = np.flatnonzero((labels >= 0) & (labels < classes))
  if len(rows) < 4:
    return None
  rows = _some(rows, limit)
  try:
    names = _source(data, dataset, split).class_names
  except (FileNotFoundError, ValueError):
    names = tuple(map(str, range(labels.max() + 1)))
  return Labelled(np.asarray(h[rows]), labels[rows], names)


def project_2d(h: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
  """Projects features of at least 4 images to the plane by PCA, then t-SNE."""
  n, d = h.shape
  reduced = PCA(min(50, n, d), random_state=_SEED).fit_transform(h)
  perplexity = min(30, (n - 1) / 3)
  return TSNE(
    perplexity=perplexity, init="pca", max_iter=500, random_state=_SEED
  ).fit_transform(reduced)


def data_uri(rows: UInt8[np.ndarray, "r b h w c"], *, gap_px: int = 2) -> str:
  """Returns a data URI of a PNG that shows rows of images."""
  gaps = ((0, 0), (0, 0), (0, gap_px), (0, gap_px), (0, 0))
  padded = np.pad(rows, gaps, constant_values=255)
  sheet = np.concatenate(np.concatenate(padded, axis=1), axis=1)
  image = Image.fromarray(sheet[:-gap_px, :-gap_px].squeeze())
  # Larger images only make the file larger.
  image.thumbnail((1100, 1100))
  file = io.BytesIO()
  image.save(file, "PNG", optimize=True)
  return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
