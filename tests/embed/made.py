"""A run with a random backbone, and folders of images to embed."""

import numpy as np
from PIL import Image
from shipped import config

from jssl import checkpoint
from jssl.config.parse import to_dict
from jssl.models import init_variables
from jssl.runtime.workdir import claim_workdir

SIZE = 32


def make_run(workdir, *, channels=3, steps=(1,), **overrides):
  """Writes a workdir with checkpoints of random backbones."""
  small = {} if "model" in overrides else {"model.width": 16, "model.depth": 1}
  made = config(**small, **overrides)
  claim_workdir(to_dict(made), workdir)
  backbone = made.model.backbone()
  with checkpoint.Checkpoints(
    workdir, keep_last=3, keep_every_steps=None
  ) as checkpoints:
    for step in steps:
      variables = init_variables(step, backbone, (SIZE, SIZE, channels))
      checkpoints.save(step, {"backbone": variables})
  return workdir


def write_images(folder, names, *, seed=0, size=(40, 36)):
  """Writes PNGs of random colours; returns the folder."""
  rng = np.random.default_rng(seed)
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  return folder
