"""Writes the backbone of a run for another library."""

import os

import jax
import jax.export
import jax.numpy as jnp

from jssl import weights
from jssl.config.build import build_model, has_teacher, read_config
from jssl.export.card import accuracies, model_card
from jssl.runtime import files
from jssl.runtime.paths import as_path
from jssl.typing import Variables
from jssl.weights.save import find_layout
from jssl.weights.workdir import find_step

_PLATFORMS = ("cpu", "cuda", "tpu")


def export(
  workdir: str | os.PathLike,
  out: str | os.PathLike,
  *,
  layout: str,
  step: int | None = None,
  student: bool = False,
) -> str:
  """Writes the backbone of a run; returns a line for the log.

  Args:
    workdir: workdir of the run.
    out: folder to write, new or empty.
    layout: "timm", "hf" or "torchvision", see `jssl.weights.save`, or
      "stablehlo" for a program of `jax.export` that contains the weights.
    step: step of the checkpoint; None as for `load_backbone`.
    student: True for the trained backbone of a method that has an averaged one.

  Raises:
    FileNotFoundError: if the run or the checkpoint does not exist.
    FileExistsError: if `out` has files.
    ValueError: if the library has no such model; names the field.
    CheckpointError: if the checkpoint is damaged.
  """
  config = read_config(workdir)
  if layout != "stablehlo":
    find_layout(config.model, layout)  # A card describes a model of it.
  step = find_step(workdir, step)
  teacher = has_teacher(config) and not student
  encoder, variables = weights.load_backbone(workdir, step, teacher=teacher)
  out, kind = as_path(out), "averaged" if teacher else "trained"
  card = model_card(
    config,
    layout=layout,
    image_shape=encoder.image_shape,
    folder=out.absolute().name,
    step=step,
    kind=kind,
    accuracies=accuracies(workdir, step, "teacher" if teacher else "student"),
  )
  if layout == "stablehlo":
    program = _program(encoder, variables)
    with files.new_folder(out) as folder:
      (folder / "model.stablehlo").write_bytes(program)
      (folder / "README.md").write_text(card)
  else:
    weights.save(
      *(build_model(config), variables, out),
      layout=layout,
      image_size_px=encoder.image_shape[0],
      readme=card,
    )
  return f"Wrote the {kind} backbone of step {step:,} to {out} for {layout}."


def _program(encoder: weights.Encoder, variables: Variables) -> bytes:
  """Returns a program that contains the weights, for batches of any size."""
  (batch,) = jax.export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, *encoder.image_shape), jnp.float32)
  exported = jax.export.export(
    jax.jit(lambda images: encoder(variables, images)), platforms=_PLATFORMS
  )(images)
  return bytes(exported.serialize())
