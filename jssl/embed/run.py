"""Embeds images by the backbone of a run, or by published weights."""

import dataclasses
import datetime
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jax
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

import jssl
from jssl import mesh as mesh_lib
from jssl.augment.crop import CENTER_SHARE
from jssl.config.build import has_teacher, read_config
from jssl.config.schema import Probe
from jssl.data import pipeline
from jssl.data.layout import MOST_LISTED
from jssl.data.source import Named, SkipDamaged, Source
from jssl.embed import store
from jssl.probe.features import variables_digest
from jssl.runtime import distributed, files
from jssl.runtime.paths import as_path
from jssl.typing import Pixels, Variables
from jssl.weights.workdir import (
  Encoder,
  find_step,
  is_published,
  load_backbone,
)

T = TypeVar("T")

# Rows of a part, and bytes of its features and tokens.
_PART_ROWS = 2048
_PART_BYTES = 2**26
_LOG_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A backbone, the size of its images, and defaults of its run.

  Attributes:
    encoder: function of variables and images.
    variables: parameters and batch statistics.
    kind: "student" or "teacher" of a run, or "published".
    step: step of the checkpoint; None for published weights.
    image_size_px: side of the images that `encoder.preprocess` takes.
    batch_size: images of a batch, by default.
    data_dir: directory of the run's data sets; "" for that of TFDS.
    workers: worker processes of the run's input.
  """

  encoder: Encoder
  variables: Variables
  kind: Literal["student", "teacher", "published"]
  step: int | None
  image_size_px: int
  batch_size: int = Probe().batch_size
  data_dir: str = ""
  workers: int = 0

  @classmethod
  def load(
    cls,
    path: str | os.PathLike,
    step: int | None = None,
    *,
    teacher: bool | None = None,
  ) -> "Pretrained":
    """Reads a backbone; see `jssl.load_backbone` for arguments and errors."""
    if is_published(path):
      encoder, variables = load_backbone(path, step, teacher=teacher)
      # The usual size, from which the centre crop needs no enlarging.
      size = round(encoder.image_shape[0] / CENTER_SHARE)
      return cls(encoder, variables, "published", step=None, image_size_px=size)
    config = read_config(path)
    step = distributed.broadcast_from_first(find_step(path, step))
    if teacher is None:
      teacher = has_teacher(config)
    encoder, variables = load_backbone(path, step, teacher=teacher)
    return cls(
      encoder,
      variables,
      "teacher" if teacher else "student",
      step=step,
      image_size_px=config.data.image_size_px,
      batch_size=config.probe.batch_size,
      data_dir=config.data.data_dir,
      workers=config.data.workers,
    )


class _Batch(NamedTuple):
  """Rows on the host; `tokens` are flat."""

  rows: Int[np.ndarray, "b"]
  label: Int[np.ndarray, "b"]
  readable: Bool[np.ndarray, "b"]
  features: Float[np.ndarray, "b d"]
  tokens: Float[np.ndarray, "b k"] | None


# The encoder is static: two calls with the same one compile once.
@functools.partial(jax.jit, static_argnums=0, static_argnames="tokens")
def _encode(
  encoder: Encoder, variables: Variables, images: Pixels, *, tokens: bool
) -> tuple[Array, Array | None]:
  """Returns features and, if asked for, patch tokens of images."""
  views = encoder.preprocess(images)
  if not tokens:
    return encoder(variables, views), None
  encoded = encoder(variables, views, tokens=True)
  return encoded.pooled, encoded.tokens


def _batches(
  encode: Callable[[Array], tuple[Array, Array | None]],
  source: Source,
  *,
  batch_size: int,
  mesh: Mesh,
  workers: int,
  first_row: int,
) -> Iterator[_Batch]:
  """Yields the rows of each batch, complete on every process."""
  row = first_row
  for batch, real in pipeline.eval_batches(
    SkipDamaged(source),
    batch_size=batch_size,
    sharding=mesh_lib.batch_sharding(mesh),
    workers=workers,
    first_row=first_row,
  ):
    pooled, tokens = encode(batch["image"])
    features, label, readable = (
      distributed.to_host(x)[:real]
      for x in (pooled, batch["label"], batch["readable"])
    )
    features = features.astype(np.float32)
    bad = int(np.sum(~np.isfinite(features[readable]).all(1)))
    if bad:  # All processes have all rows, so all of them raise.
      raise ValueError(
        f"{bad} of the features of images {row} to {row + real - 1} of "
        f"{source.name} are not finite; choose another checkpoint by --step, "
        "or other weights"
      )
    flat = None
    if tokens is not None:
      flat = distributed.to_host(tokens)[:real].reshape(real, -1)
      flat = flat.astype(np.float32)
    index = np.arange(row, row + real)
    yield _Batch(index, label, readable, features, flat)
    row += real


def _table(batch: _Batch, source: Source, schema: pa.Schema) -> pa.Table:
  """Returns the rows of the images that could be read."""
  kept = batch.readable
  index, label = batch.rows[kept], batch.label[kept]
  names: list[str | None] = [None] * len(index)
  if isinstance(source, Named):
    names = source.fetch_names(index)
  columns: dict[str, Any] = {
    "name": names,
    "index": index,
    "features": store.vectors(batch.features[kept]),
  }
  if source.class_names:
    columns["label"] = label
    columns["class"] = [
      source.class_names[k] if k >= 0 else None for k in label.tolist()
    ]
  if batch.tokens is not None:
    columns["tokens"] = store.vectors(batch.tokens[kept])
  return pa.table(columns, schema=schema)


class _Progress:
  """Logs the images done, the speed since the start, and the time left."""

  def __init__(self, total: int, done: int):
    self._total, self._first, self._done = total, done, done
    self._started = self._logged = time.monotonic()

  def add(self, images: int) -> None:
    """Counts images, and logs if the last line is old enough."""
    self._done += images
    now = time.monotonic()
    if now - self._logged < _LOG_SECONDS:
      return
    self._logged = now
    rate = (self._done - self._first) / (now - self._started)
    left = round((self._total - self._done) / rate)
    distributed.log_on_first(
      f"image {self._done}/{self._total} ({self._done / self._total:.0%})"
      f"  {rate:,.0f} images/s  ETA {datetime.timedelta(seconds=left)}"
    )

  def seconds(self) -> float:
    """Returns the time since the start."""
    return time.monotonic() - self._started


def _on_first(work: Callable[[], T]) -> T:
  """Returns the result of process 0 on all processes, or raises its error.

  After an error that may pass, such as a full disk, only process 0 raises it.
  """
  result, error = None, None
  if distributed.is_first():
    try:
      result = work()
    except (ValueError, OSError) as found:
      if files.is_retryable(found):
        raise
      error = found
  result, problem = distributed.broadcast_from_first(
    (result, str(error) if error else "")
  )
  if problem:
    raise error or ValueError(problem)
  return cast(T, result)


def _token_shape(encoder: Encoder) -> tuple[int, int]:
  """Returns number and width of the patch tokens, or raises ValueError."""
  grid = encoder.backbone.grid(encoder.image_shape)
  if grid is None:
    raise ValueError(
      "--tokens: expected a backbone with patch tokens, such as a ViT, and "
      "this one has none; omit --tokens"
    )
  return grid.patches, grid.width


def _check_channels(encoder: Encoder, source: Source) -> None:
  channels = encoder.image_shape[-1]
  if source.image_shape[-1] not in (1, channels):
    raise ValueError(
      f"{source.name} has images of {source.image_shape[-1]} channels: "
      f"expected {' or '.join(map(str, sorted({1, channels})))}, as the "
      "backbone takes; change --dataset, or --workdir or --weights"
    )


def _about(
  backbone: Pretrained,
  source: Source,
  *,
  tokens: tuple[int, int] | None,
  batch_size: int,
) -> dict[str, Any]:
  """Returns the metadata: all inputs of the rows."""
  fingerprint = source.fingerprint()
  distributed.check_same(fingerprint, f"images of {source.name}")
  return {
    "jssl": jssl.__version__,
    "weights": variables_digest(backbone.variables),
    "backbone": backbone.kind,
    "step": backbone.step,
    "source": source.name,
    "images": fingerprint,
    "classes": list(source.class_names),
    "image_size_px": source.image_shape[0],
    "crop_size_px": backbone.encoder.image_shape[0],
    "tokens": list(tokens) if tokens else None,
    "batch_size": batch_size,
  }


def _write_parts(
  parts: store.Parts,
  batches: Iterable[_Batch],
  source: Source,
  rows: int,
  progress: _Progress,
) -> None:
  """Writes batches in parts of `rows` images, on process 0."""
  skipped, tables = SkipDamaged(source), []
  damaged: list[tuple[int, str]] = []
  for batch in batches:
    if distributed.is_first():
      tables.append(_table(batch, source, parts.schema))
      unreadable = batch.rows[~batch.readable].tolist()
      damaged += [(row, skipped.reason(row)) for row in unreadable]
      end = int(batch.rows[-1]) + 1
      if end % rows == 0 or end == len(source):
        parts.write(pa.concat_tables(tables), damaged)
        tables, damaged = [], []
    progress.add(len(batch.rows))


def embed(
  backbone: Pretrained,
  source: Source,
  out: str | os.PathLike,
  *,
  tokens: bool = False,
  batch_size: int = 0,
  workers: int | None = None,
  overwrite: bool = False,
) -> int:
  """Writes one row per image of a source; resumes a run that was killed.

  All devices of all processes share a batch, and process 0 writes. The rows of
  a killed run are kept in parts beside `out`; the same call continues after
  them, and writes the same bytes on the same devices.

  Args:
    backbone: backbone with its preprocessing.
    source: images; a damaged one has no row, and is logged at the end.
    out: file to write, .parquet or .npz.
    tokens: True for patch tokens too.
    batch_size: images of a batch, rounded up to a multiple of the devices; 0
      for that of the backbone.
    workers: processes that read and decode, 0 for a thread; None for the
      number of the backbone.
    overwrite: True to replace `out`, and parts of other weights or images.

  Returns:
    The number of rows.

  Raises:
    FileExistsError: if `out` exists.
    ValueError: if parts are of other weights or images, channels or features do
      not fit, or no image can be read.
  """
  encoder, out = backbone.encoder, as_path(out)
  _check_channels(encoder, source)
  shape = _token_shape(encoder) if tokens else None
  mesh = mesh_lib.make_mesh(-1, 1)
  batch_size = -(-(batch_size or backbone.batch_size) // mesh.size) * mesh.size
  width = encoder.backbone.feature_dim
  parts = store.Parts(
    out,
    store.make_schema(width, shape, labelled=bool(source.class_names)),
    _about(backbone, source, tokens=shape, batch_size=batch_size),
  )
  row_bytes = 4 * (width + (math.prod(shape) if shape else 0))
  rows = max(1, min(_PART_ROWS, _PART_BYTES // row_bytes) // batch_size)
  rows *= batch_size
  done = _on_first(lambda: parts.open(overwrite=overwrite))
  first_row = min(done * rows, len(source))
  if done:
    distributed.log_on_first(f"Resumed from image {first_row}.")
  variables = mesh_lib.on_every_device(mesh, backbone.variables)
  batches = _batches(
    functools.partial(_encode, encoder, variables, tokens=tokens),
    source,
    batch_size=batch_size,
    mesh=mesh,
    workers=backbone.workers if workers is None else workers,
    first_row=first_row,
  )
  progress = _Progress(len(source), first_row)
  _write_parts(parts, batches, source, rows, progress)
  written = _on_first(parts.join)
  for row, reason in parts.damaged[:MOST_LISTED]:
    distributed.log_on_first(f"Omitted image {row}: {reason}")
  if (more := len(parts.damaged) - MOST_LISTED) > 0:
    distributed.log_on_first(
      f"Omitted {more:,} more images; the metadata of {out} lists all."
    )
  distributed.log_on_first(
    f"Wrote {out}: {written} rows of {width} features, "
    f"{len(source) - written} of {len(source)} images omitted "
    f"({progress.seconds():.1f} s)."
  )
  return written
