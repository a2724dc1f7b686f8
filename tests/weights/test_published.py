"""Published weights against the outputs of the libraries that define them."""

import json
import os
import pathlib
import re
import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jssl import weights
from jssl.models import ViT
from tests.models.test_vit import jit

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "weights"
# The names in the extracted backbones of DINO are those of timm.
LAYOUTS = {"official_dino": "dino"}
DISTINCT = ("official_dino", "official_dinov3", "official_mae")
# The bar is 2e-5 of the largest value.
TOLERANCE = 5e-6
FOLDERS = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


def expected(name):
  return json.loads((FIXTURES / name / "expected.json").read_text())


OWN = [name for name in FOLDERS if expected(name)["layout"] != "official"]


def outputs(name):
  """Outputs of the library; for DINOv3 with periods in float32."""
  facts = expected(name)
  folder = facts.get("twin_with_float32_periods", facts["outputs"])
  return load_file(FIXTURES / folder / "outputs.safetensors")


def published(name, path=None, **fields):
  facts = expected(name)
  for key in ("mean", "std"):
    fields[key] = tuple(facts[key])
  fields |= {"layout": LAYOUTS.get(name), "num_heads": facts["num_heads"]}
  return weights.Published(path or FIXTURES / name, **fields)


def load(name, **fields):
  facts = expected(name)
  for key in ("mean", "std"):
    fields[key] = tuple(facts[key])
  fields |= {"layout": LAYOUTS.get(name), "num_heads": facts["num_heads"]}
  return weights.load(FIXTURES / name, **fields)


def trees_equal(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


# Most official files have twins in other layouts.
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow)
    if name.startswith("official") and name not in DISTINCT
    else name
    for name in FOLDERS
  ],
)
def test_outputs_equal_those_of_the_library(name):
  model, variables = load(name)
  truth = outputs(name)
  backbone = model.backbone()
  tokens = isinstance(model, ViT)
  encode = jit(lambda v, x: backbone.apply(v, x, train=False, tokens=tokens)[0])
  compared = set()
  for size in expected(name).get("sizes", ["native", "other", "smaller"]):
    if f"images_{size}" not in truth:
      continue
    images = truth[f"images_{size}"].transpose(0, 2, 3, 1)
    encoded = encode(variables, images)
    found = {"tokens": encoded.tokens, "pooled": encoded.pooled}
    if getattr(model, "pooling", "") == "cls":
      found = {"tokens": encoded.tokens, "cls": encoded.pooled}
    for kind in found.keys() & {"tokens", "pooled", "cls"}:
      wanted = truth.get(f"{size}/{kind}")
      if wanted is not None and found[kind] is not None:
        error = np.abs(found[kind] - wanted).max() / np.abs(wanted).max()
        assert error <= TOLERANCE, (size, kind)
        compared.add((size, kind))
  assert len({size for size, _ in compared}) >= len(
    expected(name).get("sizes", ["native", "other"])
  )


@pytest.mark.slow
def test_bfloat16_is_near():
  model, variables = load("timm_dinov2", dtype="bfloat16")
  truth = outputs("timm_dinov2")
  images = truth["images_native"].transpose(0, 2, 3, 1)
  found = model.backbone().apply(variables, images, train=False)[0].pooled
  wanted = truth["native/cls"]
  error = np.abs(found - wanted).max() / np.abs(wanted).max()
  assert 1e-4 < error < 3e-2  # 1.2e-2


@pytest.mark.parametrize("name", FOLDERS)
def test_files_survive_a_round_trip_bit_for_bit(name):
  opened = published(name)
  model, variables = load(name)
  report = opened.report
  after = weights.to_tensors(model, variables, report.layout)
  before = load_file(FIXTURES / name / "model.safetensors")
  used = {tensor for names in report.used.values() for tensor in names}
  assert len(used) >= len(after) - sum("num_batches" in x for x in after)
  for tensor in used:
    own = re.sub(
      r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", tensor[len(report.prefix) :]
    )
    wanted = before[tensor]
    if f"{tensor}_mask" in before:  # The bias of keys, which a mask removes.
      q, k, v = np.split(wanted, 3)
      wanted = np.concatenate([q, 0 * k, v])
    assert after[own].shape == wanted.shape
    np.testing.assert_array_equal(after[own], wanted)


@pytest.mark.parametrize("name", OWN)
def test_written_folders_are_read_again(name, tmp_path):
  layout = expected(name)["layout"]
  model, variables = load(name)
  weights.save(model, variables, tmp_path / "out", layout=layout)
  again, same = weights.load(tmp_path / "out")
  assert again == model
  trees_equal(same, variables)


@pytest.mark.parametrize(
  ("name", "layout", "match"),
  [
    ("timm_vit", "torchvision", 'layout="torchvision": expected a ResNet'),
    ("resnet18", "hf", 'layout="hf": expected a ViT'),
    ("resnet18", "timm", "model.width=3"),
    ("hf_vit", "timm", "model.norm_epsilon=1e-12: layout='timm' has only"),
    ("timm_vit_avg", "hf", "model.norm_pooled=True: layout='hf' has only"),
    ("timm_vit", "onnx", "layout='onnx': expected \"timm\""),
  ],
)
def test_a_model_that_a_library_lacks_is_refused(name, layout, match, tmp_path):
  model, variables = load(name)
  with pytest.raises(ValueError, match=match):
    weights.save(model, variables, tmp_path / "out", layout=layout)
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
  "name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_wrapped_names_are_read(name, tmp_path):
  tensors = load_file(FIXTURES / name / "model.safetensors")
  _, variables = load(name)
  for prefix in expected(name)["wrappers"]:
    file = tmp_path / "wrapped.safetensors"
    wrapped = {prefix + key: value for key, value in tensors.items()}
    save_file({**wrapped, "queue": np.zeros(3, np.float32)}, file)
    opened = published(name, file)
    assert opened.report.prefix == prefix
    assert "queue" in opened.report.ignored
    trees_equal(dict(weights.load(file)[1]), variables)


@pytest.mark.slow
@pytest.mark.skipif(
  "JSSL_TORCH_PYTHON" not in os.environ,
  reason="JSSL_TORCH_PYTHON names no interpreter with torch",
)
@pytest.mark.parametrize("name", OWN)
def test_the_library_loads_what_was_written(name, tmp_path):
  layout = expected(name)["layout"]
  model, variables = load(name)
  weights.save(model, variables, tmp_path / "out", layout=layout)
  source = FIXTURES / expected(name)["outputs"] / "outputs.safetensors"
  subprocess.run(
    [
      os.environ["JSSL_TORCH_PYTHON"],
      FIXTURES / "check.py",
      *(layout, tmp_path / "out", source, tmp_path / "outputs.safetensors"),
    ],
    check=True,
  )
  truth, found = outputs(name), load_file(tmp_path / "outputs.safetensors")
  kinds = {"native/tokens", "native/pooled", "native/cls"} & set(truth)
  assert kinds
  for kind in kinds & set(found):
    near = np.abs(truth[kind]).max() * TOLERANCE
    np.testing.assert_allclose(found[kind], truth[kind], atol=near)
  assert kinds & set(found)


@pytest.mark.parametrize(
  ("fields", "layout"),
  [
    ({"mask_token": True, "layer_scale": 0.1, "pooling": "cls"}, "hf"),
    ({"mask_token": True, "positions": "rope", "layer_scale": 0.1}, "hf"),
    ({"positions": "rope"}, "timm"),
    ({}, "timm"),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ({"positions": "rope", "num_registers": 2}, "timm"),
        ({"pooling": "cls_mean", "num_registers": 2}, "timm"),
        ({"mlp": "swiglu", "layer_scale": 0.1, "pooling": "cls"}, "timm"),
        ({}, "hf"),
      )
    ),
  ],
)
def test_models_of_this_library_are_written_and_read(fields, layout, tmp_path):
  own = (
    {"norm_epsilon": 1e-5, "qkv_bias": "qv"} if "rope" in str(fields) else {}
  )
  if layout == "hf" and own:
    own["class_token"] = True
  model = ViT(
    **{"patch_size_px": 4, "width": 16, "depth": 1, "num_heads": 2},
    **{"gelu": "erf", **own, **fields},
  )
  variables = model.backbone().init(jax.random.key(0), (8, 8, 3))
  params = dict(variables["params"])
  if "mask_token" in params:
    params["mask_token"] += 1.0
  folder = tmp_path / "out"
  weights.save(
    model, {"params": params}, folder, layout=layout, image_size_px=8
  )
  again, same = weights.load(folder)
  images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
  one, other = (
    m.backbone().apply(v, images, train=False)[0].pooled
    for m, v in ((model, {"params": params}), (again, same))
  )
  np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
  if "mask_token" in same["params"]:
    np.testing.assert_array_equal(
      same["params"]["mask_token"], params.get("mask_token", 0 * params["cls"])
    )


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"positions": "rope", "class_token": True}, "model.layer_scale=0.0"),
    ({"num_registers": 4, "pooling": "cls"}, "model.num_registers=4"),
  ],
)
def test_a_model_that_transformers_lacks_is_refused(fields, match, tmp_path):
  model = ViT(patch_size_px=4, width=16, depth=1, num_heads=2, **fields)
  variables = model.backbone().init(jax.random.key(0), (8, 8, 3))
  with pytest.raises(ValueError, match=match):
    weights.save(model, variables, tmp_path / "out", layout="hf")
