"""Folders for other libraries, and the code in their model cards."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from shipped import config

import jssl
from jssl import checkpoint, weights
from jssl.config.parse import to_dict
from jssl.export.write import export
from jssl.models import init_variables
from jssl.probe.record_file import RecordFile
from jssl.runtime.workdir import claim_workdir
from tests.probe.made import probe_record

SIZE = 32
BYOL = {
  "name": "byol",
  "projector": {"hidden_dims": (), "out_dim": 3},
  "predictor": {"hidden_dims": (), "out_dim": 3},
}
VIT = {"width": 32, "depth": 2, "num_heads": 2, "patch_size_px": 8}
LEARNED = {"name": "vit", **VIT, "positions": "learned", "gelu": "erf"}
CLASS = {**LEARNED, "class_token": True, "num_registers": 2, "layer_scale": 0.1}
RESNET = {"name": "resnet", "depth": 18, "small_images": True}


def save(workdir, *, steps=(1,), **overrides):
  """A workdir with random backbones; returns those of the teacher, by step."""
  made = config(**overrides)
  claim_workdir(to_dict(made), workdir)
  backbone, teachers = made.model.backbone(), {}
  with checkpoint.Checkpoints(
    workdir, keep_last=3, keep_every_steps=None
  ) as checkpoints:
    for step in steps:
      student, teachers[step] = (
        init_variables(seed, backbone, (SIZE, SIZE, 3))
        for seed in (step, step + 100)
      )
      training = {"teacher": teachers[step], "opt_state": (np.ones(3),)}
      checkpoints.save(step, {"backbone": student, "training": training})
  return teachers


def code_of(card, heading):
  return re.search(
    rf"## Use with {heading}\n\n```python\n(.*?)```", card, re.S
  )[1]


def test_the_averaged_backbone_and_its_card(tmp_path, monkeypatch):
  workdir, out = tmp_path / "W", tmp_path / "out"
  teachers = save(workdir, steps=(1, 2), objective=BYOL, model=CLASS)
  records = [
    probe_record("pixels", 0, test_accuracy=0.111),
    probe_record(step=1, backbone="teacher", test_accuracy=0.222),
    probe_record(step=2, backbone="teacher", test_accuracy=0.333),
    probe_record("student", 2, backbone="student", test_accuracy=0.444),
  ]
  for record in records:
    RecordFile(workdir).replace([record])
  line = export(workdir, out, layout="hf")
  assert line == f"Wrote the averaged backbone of step 2 to {out} for hf."
  model, variables = weights.load(out)
  assert model.mask_token  # transformers always has one.
  del variables["params"]["mask_token"]
  del variables["params"]["cls_position"]
  jax.tree.map(np.testing.assert_array_equal, variables, teachers[2])
  card = (out / "README.md").read_text()
  front = card.split("---\n")[1]
  assert "library_name: transformers\n" in front
  assert "pipeline_tag: image-feature-extraction\n" in front
  assert "- byol\n" in front
  made = config(objective=BYOL, model=CLASS)
  assert f"{made.data.batch_size:,} images each" in card
  assert "Steps: 2 of 240" in card
  assert "averaged, `ViT(patch_size_px=8, width=32, depth=2" in card
  assert "Initial weights: random" in card
  assert "positions='learned'" in card
  assert "mlp_ratio" not in card  # A default.
  assert "at least 32 px and at most 37 px" in card
  accuracies = re.findall(r"\d\d\.\d ±", card)
  assert accuracies == ["11.1 ±", "33.3 ±"]
  monkeypatch.chdir(tmp_path)
  pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
  names = {"pixels": pixels}
  exec(code_of(card, "jssl"), names)
  apply, _ = jssl.load_backbone(workdir)
  expected = apply(teachers[2], apply.preprocess(pixels))
  np.testing.assert_allclose(names["features"], expected, rtol=1e-4, atol=1e-5)


def test_the_student_of_a_step(tmp_path):
  save(tmp_path / "W", steps=(1, 2), objective=BYOL, model=LEARNED)
  RecordFile(tmp_path / "W").replace(
    [probe_record(step=1, backbone="teacher", test_accuracy=0.222)]
  )
  line = export(
    *(tmp_path / "W", tmp_path / "out"), layout="timm", step=1, student=True
  )
  assert "the trained backbone of step 1 " in line
  _, found = weights.load(tmp_path / "out")
  _, student = jssl.load_backbone(tmp_path / "W", 1, teacher=False)
  jax.tree.map(np.testing.assert_array_equal, found, student)
  assert "Frozen features" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
  ("model", "layout", "match"),
  [
    (LEARNED, "torchvision", 'layout="torchvision": expected a ResNet'),
    (RESNET, "hf", 'layout="hf": expected a ViT'),
    ({**LEARNED, "norm_epsilon": 1e-3}, "timm", "model.norm_epsilon=0.001"),
  ],
)
def test_a_model_that_a_library_lacks(model, layout, match, tmp_path):
  save(tmp_path / "W", model=model)
  with pytest.raises(ValueError, match=match):
    export(tmp_path / "W", tmp_path / "out", layout=layout)
  assert not (tmp_path / "out").exists()


def test_the_command(tmp_path):
  def run(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "jssl", "export", *arguments],
      capture_output=True,
      text=True,
      check=False,
    )

  save(tmp_path / "W", model=RESNET)
  flags = [f"--workdir={tmp_path}/W", "--layout=torchvision"]
  done = run(*flags, f"--out={tmp_path}/out")
  assert done.returncode == 0, done.stderr
  assert done.stdout == (
    f"Wrote the trained backbone of step 1 to {tmp_path}/out for torchvision.\n"
  )
  assert {path.name for path in (tmp_path / "out").iterdir()} == {
    "README.md",
    "model.safetensors",
  }
  done = run(*flags, f"--out={tmp_path}/out")
  assert done.returncode == 1
  assert f"error: {tmp_path}/out exists: expected" in done.stderr
  done = run(*flags, f"--out={tmp_path}/other", "--step=7")
  assert "no checkpoint of step 7; it has [1]" in done.stderr
  assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
  "model",
  [
    {**CLASS, "pooling": "cls_mean", "scan_layers": True},
    pytest.param(RESNET, marks=pytest.mark.slow),
  ],
)
def test_a_program_runs_without_jssl(model, tmp_path):
  pytest.importorskip("flatbuffers")
  save(tmp_path / "W", model=model)
  export(tmp_path / "W", tmp_path / "out", layout="stablehlo")
  card = (tmp_path / "out" / "README.md").read_text()
  assert "library_name: jax\n" in card
  assert "float32 [n, 32, 32,\n3]" in card
  images = np.random.default_rng(0).random((5, SIZE, SIZE, 3), np.float32)
  np.save(tmp_path / "images.npy", images)
  script = f"""
import sys
import numpy as np
whole = np.load("images.npy")
for n in (2, 5):
  images = whole[:n]
  exec({code_of(card, "jax")!r})
  np.save(f"{{n}}.npy", features)
assert "jssl" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
  apply, variables = jssl.load_backbone(tmp_path / "W")
  expected = np.asarray(apply(variables, images))
  near = 2e-5 * np.abs(expected).max()
  for n in (2, 5):
    found = np.load(tmp_path / f"{n}.npy")
    np.testing.assert_allclose(found, expected[:n], atol=near)


@pytest.mark.slow
@pytest.mark.skipif(
  "JSSL_TORCH_PYTHON" not in os.environ,
  reason="JSSL_TORCH_PYTHON names no interpreter with torch",
)
@pytest.mark.parametrize(
  ("model", "layout"),
  [
    (LEARNED, "timm"),
    (LEARNED, "hf"),
    ({**CLASS, "pooling": "cls_mean"}, "timm"),
    ({**CLASS, "pooling": "cls_mean"}, "hf"),
    ({**CLASS, "pooling": "cls"}, "hf"),
    ({**CLASS, "pooling": "mean"}, "hf"),
    (RESNET, "torchvision"),
    ({**RESNET, "small_max_pool": True}, "torchvision"),
    ({**RESNET, "small_images": False}, "torchvision"),
    ({**RESNET, "small_images": False}, "timm"),
  ],
)
def test_the_code_of_a_card(model, layout, tmp_path):
  save(tmp_path / "W", model=model)
  export(tmp_path / "W", tmp_path / "out", layout=layout)
  card = (tmp_path / "out" / "README.md").read_text()
  library = {"hf": "transformers"}.get(layout, layout)
  apply, variables = jssl.load_backbone(tmp_path / "W")
  images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
  mean, std = (
    np.array(re.search(rf"{word} \[(.*?)\]", card)[1].split(", "), np.float32)
    for word in ("subtract", "divide\nby")
  )
  scaled = np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2))
  save_file({"images": scaled}, tmp_path / "images.safetensors")
  script = f"""
import torch
from safetensors.torch import load_file, save_file
images = load_file("images.safetensors")["images"]
with torch.no_grad():
  exec({code_of(card, library)!r})
save_file({{"features": features.contiguous()}}, "features.safetensors")
"""
  python = os.environ["JSSL_TORCH_PYTHON"]
  subprocess.run([python, "-c", script], check=True, cwd=tmp_path)
  found = load_file(tmp_path / "features.safetensors")["features"]
  expected = np.asarray(apply(variables, images))
  near = 2e-5 * np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=near)
