"""Images in a report: augmented views, a map of test features, neighbours."""

import base64
import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from jssl.config.build import build_backbone
from jssl.config.schema import Config, Data
from jssl.data.open import open_source
from jssl.data.source import Source
from jssl.diagnostics import nearest_neighbours
from jssl.models import ViT
from jssl.models.vit_encoder import class_attention
from jssl.pixels import to_picture
from jssl.probe import features
from jssl.report.read import Run
from jssl.runtime.paths import modified
from jssl.train import preview
from jssl.weights.workdir import load_backbone

_UNLABELLED = "unlabelled"


class Labelled(NamedTuple):
  """Test features, their classes and their rows in the split.

  `source` is None if the data set cannot be opened here.
  """

  h: Float[np.ndarray, "n d"]
  labels: Int[np.ndarray, "n"]
  class_names: tuple[str, ...]
  rows: Int[np.ndarray, "n"]
  source: Source | None


class Picture(NamedTuple):
  """A small image of a page: its data URI and class."""

  uri: str
  name: str


_SEED = 0
_PICTURE_PX = 64


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
  """Opens the training images, see `preview.augmented`.

  Raises:
    FileNotFoundError: if the data set is not prepared.
    ValueError, TypeError: if the config is invalid.
  """
  source = _source(config.data, config.data.name, config.data.split)
  return preview.augmented(config, source, images=images, num_views=num_views)


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

  Leaves out all but the first `classes`; images without labels are one class
  if there are no others. None if fewer than 4 are cached.
  `backbone` is that of the records.
  """
  name = f"step{step}-teacher" if backbone == "teacher" else f"step{step}"
  data = run.config.data
  # The probe tests on "test" if the set is not that of the run.
  split = data.test_split if dataset == data.name else "test"
  pattern = features.path(
    run.workdir, dataset=dataset, split=split, name=name, key="*"
  )
  paths = sorted(pattern.parent.glob(pattern.name), key=modified)
  found = features.cached(paths[-1], num_classes=0) if paths else None
  if found is None:
    return None
  h, labels, _ = found
  unlabelled = bool((labels < 0).all())
  if unlabelled:
    labels = np.zeros_like(labels)
  rows = np.flatnonzero((labels >= 0) & (labels < classes))
  if len(rows) < 4:
    return None
  rows = _some(rows, limit)
  try:
    source = _source(data, dataset, split)
  except (OSError, ValueError):
    source = None
  names = source.class_names if source else ()
  if unlabelled:
    names = (_UNLABELLED,)
  names = names or tuple(map(str, range(labels.max() + 1)))
  # The cache of `probe.features` of tokens has other columns after these.
  width = build_backbone(run.config).feature_dim
  return Labelled(
    np.asarray(h[rows, :width]), labels[rows], names, rows, source
  )


def nearest(
  found: Labelled, *, queries: int, neighbours: int
) -> list[list[Picture]]:
  """Returns images and their nearest ones by cosine similarity, a row each.

  The first of a row is the query. Empty without the data set.
  """
  source = found.source
  if source is None:
    return []
  n = len(found.h)
  # One query per class, as far as there are classes.
  _, first = np.unique(found.labels, return_index=True)
  others = np.setdiff1d(np.arange(n), first)
  shown = np.concatenate([first, others])[:queries]
  k = min(neighbours + 1, n)
  near = nearest_neighbours(found.h[shown], found.h, k=k).rows

  def picture(row: int) -> Picture:
    image = source.fetch(found.rows[[row]])["image"]
    return Picture(
      data_uri(to_picture(image)[None], most_px=_PICTURE_PX),
      found.class_names[found.labels[row]],
    )

  # Of equal features another image may come before the query.
  rows = (
    [query, *[row for row in of_query if row != query]][:k]
    for query, of_query in zip(shown, np.asarray(near), strict=True)
  )
  return [[picture(int(row)) for row in of_query] for of_query in rows]


def token_maps(
  run: Run, step: int, *, images: int
) -> list[tuple[str, UInt8[np.ndarray, "b h w c"]]]:
  """Returns test images, and what a ViT makes of their patches, with names.

  The first three principal components of all patch tokens are red, green and
  blue. The attention of the class token, if there is one, is the mean over the
  heads of the last block; its largest value is white.

  Raises:
    FileNotFoundError: if the checkpoint is gone or the set is not prepared.
    ValueError: if the backbone has no patch tokens.
    CheckpointError: if the checkpoint is damaged.
  """
  model, data = run.config.model, run.config.data
  if not isinstance(model, ViT):
    raise ValueError("the backbone has no patch tokens")
  source = _source(data, data.name, data.test_split)
  apply, variables = load_backbone(run.workdir, step)
  stored = source.fetch(_some(np.arange(len(source)), images))["image"]
  views = apply.preprocess(stored)
  tokens = np.asarray(apply(variables, views, tokens=True).tokens, np.float32)
  grid = model.grid(views.shape[1:])

  def drawn(values: Float[np.ndarray, "b n c"]) -> UInt8[np.ndarray, "b h w c"]:
    cells = values.reshape(len(values), grid.rows, grid.columns, -1)
    cells = np.rint(255 * np.clip(cells, 0, 1)).astype(np.uint8)
    size = grid.patch_size_px
    return cells.repeat(size, axis=1).repeat(size, axis=2)

  colours = PCA(3, random_state=_SEED).fit_transform(
    tokens.reshape(-1, tokens.shape[-1])
  )
  # Single patches far from all others would leave the rest in one colour.
  low, high = np.percentile(colours, [2, 98], axis=0)
  colours = (colours - low) / np.maximum(high - low, 1e-12)
  found = [
    ("images", to_picture(views, stored)),
    ("PCA", drawn(colours.reshape(*tokens.shape[:2], 3))),
  ]
  if model.has_class_token:
    weights = np.asarray(class_attention(model, variables, views)).mean(1)
    weights = weights / weights.max(axis=1, keepdims=True)
    found.append(("attention", drawn(weights[..., None])))
  return found


def project_2d(h: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
  """Projects features of at least 4 images to the plane by PCA, then t-SNE."""
  n, d = h.shape
  reduced = PCA(min(50, n, d), random_state=_SEED).fit_transform(h)
  perplexity = min(30, (n - 1) / 3)
  return TSNE(
    perplexity=perplexity, init="pca", max_iter=500, random_state=_SEED
  ).fit_transform(reduced)


def data_uri(
  rows: UInt8[np.ndarray, "r b h w c"], *, gap_px: int = 2, most_px: int = 1100
) -> str:
  """Returns a data URI of a PNG that shows rows of images."""
  image = Image.fromarray(preview.sheet(rows, gap_px=gap_px).squeeze())
  # Larger images only make the file larger.
  image.thumbnail((most_px, most_px))
  file = io.BytesIO()
  image.save(file, "PNG", optimize=True)
  return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
