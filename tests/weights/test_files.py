"""Files of weights that are damaged, of other architectures, or split."""

import json
import pickle
import shutil
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jssl import weights
from jssl.runtime.paths import as_path
from tests.weights.test_published import FIXTURES, load, trees_equal

FILE = FIXTURES / "timm_vit" / "model.safetensors"


def tensors():
  return load_file(FILE)


def write(path, values):
  save_file(values, path, {"format": "pt"})
  return path


def renamed(values, old, new):
  return {key.replace(old, new): value for key, value in values.items()}


@pytest.fixture
def file(tmp_path):
  return tmp_path / "model.safetensors"


def test_a_truncated_file(file):
  file.write_bytes(FILE.read_bytes()[:-100])
  with pytest.raises(ValueError, match="expected a safetensors file"):
    weights.load(file)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_under_another_name(file, protocol):
  file.write_bytes(pickle.dumps({"a": np.ones(3)}, protocol))
  # Older pickles are text.
  hint = "it is a pickle" if protocol >= 2 else "expected a safetensors file"
  with pytest.raises(ValueError, match=hint):
    weights.load(file)


def test_a_checkpoint_of_pytorch(tmp_path):
  (tmp_path / "dino.pth").write_bytes(b"PK")
  with pytest.raises(ValueError, match=r"jssl weights convert .*dino.pth"):
    weights.load(tmp_path / "dino.pth")


@pytest.mark.parametrize("name", ["none.safetensors", "."])
def test_no_file(tmp_path, name):
  with pytest.raises(FileNotFoundError, match=r"none.safetensors|has 0 "):
    weights.load(tmp_path / name)


def test_integers_are_refused(file):
  values = tensors()
  values["norm.weight"] = np.arange(24)
  with pytest.raises(ValueError, match=r"norm.weight has dtype I64: expected"):
    weights.load(write(file, values), num_heads=3)


def test_keys_of_another_architecture(file):
  write(file, renamed(tensors(), "blocks.", "layers."))
  with pytest.raises(
    ValueError,
    match=r"one of the layouts .*timm.*received .*layers.0.attn.qkv.weight "
    r"\(nearest: blocks.0.attn.qkv.weight\)",
  ):
    weights.load(file)


def test_a_tensor_without_a_place(file):
  values = tensors() | {"blocks.0.attn.q_norm.weight": np.ones(8, np.float32)}
  with pytest.raises(
    ValueError, match=r"unexpected .*: blocks.0.attn.q_norm.weight \(nearest"
  ):
    weights.load(write(file, values), num_heads=3)


def test_a_missing_tensor(file):
  values = tensors()
  del values["blocks.1.attn.proj.bias"]
  with pytest.raises(ValueError, match=r"expects blocks.1.attn.proj.bias"):
    weights.load(write(file, values), num_heads=3)


def test_a_tensor_of_another_shape(file):
  values = tensors()
  values["blocks.1.mlp.fc1.bias"] = np.ones(7, np.float32)
  with pytest.raises(ValueError, match=r"blocks.1.mlp.fc1.bias of shape \[\[7"):
    weights.load(write(file, values), num_heads=3)


def test_positions_of_no_square_grid(file):
  values = tensors()
  values["pos_embed"] = values["pos_embed"][:, :-2]
  with pytest.raises(ValueError, match=r"positions of a square grid.* 15 rows"):
    weights.load(write(file, values), num_heads=3)


def test_an_unknown_number_of_heads(file):
  with pytest.raises(ValueError, match=r"width of 24 .*pass num_heads"):
    weights.load(write(file, tensors()))


def test_an_unknown_layout_or_field():
  with pytest.raises(ValueError, match=r"layout='tim': expected one of .*timm"):
    weights.load(FILE, layout="tim")
  with pytest.raises(ValueError, match="heads: expected fields of ViT"):
    weights.load(FILE, heads=3)


@pytest.mark.parametrize(
  ("layout", "width", "heads"),
  [
    ("timm", 192, 3),
    ("timm", 384, 6),
    ("timm", 1152, None),
    ("moco_v3", 384, 12),
    ("mae", 1280, 16),
    ("dinov2", 1536, 24),
    ("dinov3", 1280, 20),
    ("dinov3", 4096, 32),
    ("hf_dinov3", 1280, 20),
    ("hf_dinov2", 1024, 16),
  ],
)
def test_heads_of_published_widths(layout, width, heads):
  assert weights.LAYOUTS[layout].num_heads.get(width) == heads


def test_metadata_of_an_unknown_layout(file):
  save_file(tensors(), file, {"jssl.layout": "later"})
  with pytest.raises(ValueError, match=r"layout='later': expected one of"):
    weights.load(file)


def test_a_resnet_with_another_stem(file):
  values = load_file(FIXTURES / "resnet18" / "model.safetensors")
  with pytest.raises(ValueError, match="one of the layouts"):
    weights.load(write(file, renamed(values, "conv1.weight", "conv1.0.weight")))


def test_patches_of_videos(file):
  values = tensors()
  kernel = values["patch_embed.proj.weight"]
  values["patch_embed.proj.weight"] = kernel[:, :, None]
  with pytest.raises(ValueError, match=r"expects patches of \[width, channels"):
    weights.load(write(file, values), num_heads=3)


def test_a_folder_describes_its_model():
  for name in ("hf_dinov2", "timm_vit_avg", "timm_dinov3", "hf_dinov3"):
    model, _ = load(name)
    found, _ = weights.load(FIXTURES / name)
    assert (found.num_heads, found.pooling) == (model.num_heads, model.pooling)


def test_a_layout_that_the_file_has_not():
  with pytest.raises(ValueError, match=r"expected tensors of hf_dinov2; rec"):
    weights.load(FILE, layout="hf_dinov2")


def test_an_activation_of_another_model(tmp_path):
  folder = tmp_path / "hf"
  shutil.copytree(FIXTURES / "hf_dinov2", folder)
  config = json.loads((folder / "config.json").read_text())
  config["hidden_act"] = "relu"
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=r"activation 'relu' in config.json"):
    weights.load(folder)


def test_half_precision_becomes_float32(file):
  halves = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors().items()}
  _, variables = weights.load(write(file, halves), num_heads=3)
  scale = variables["params"]["norm"]["scale"]
  assert scale.dtype == np.float32
  np.testing.assert_array_equal(scale, halves["norm.weight"].astype(np.float32))


def test_an_index_of_several_files(tmp_path):
  values = tensors()
  names = sorted(values)
  index = {}
  for part, chosen in enumerate((names[::2], names[1::2])):
    name = f"model-{part}.safetensors"
    write(tmp_path / name, {key: values[key] for key in chosen})
    index |= dict.fromkeys(chosen, name)
  index_file = tmp_path / "model.safetensors.index.json"
  index_file.write_text(json.dumps({"weight_map": index}))
  _, whole = weights.load(FILE, num_heads=3)
  for path in (tmp_path, index_file):
    trees_equal(weights.load(path, num_heads=3)[1], whole)
  index_file.write_text(
    json.dumps({"weight_map": index | {"more": "model-0.safetensors"}})
  )
  with pytest.raises(ValueError, match="no file has, such as more"):
    weights.load(tmp_path)
  (tmp_path / "model-1.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match=r"model-1.safetensors does"):
    weights.load(tmp_path)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  model, variables = load("timm_vit")

  def fail(*_):
    raise OSError(28, "No space left on device")

  # `jssl.weights.save` is the function.
  monkeypatch.setattr(sys.modules["jssl.weights.save"], "save_file", fail)
  with pytest.raises(OSError, match="No space"):
    weights.save(model, variables, tmp_path / "out", layout="timm")
  assert not any(tmp_path.iterdir())


def test_files_are_not_replaced(tmp_path):
  model, variables = load("timm_vit")
  (tmp_path / "other").touch()
  with pytest.raises(FileExistsError, match="expected the path of a new fold"):
    weights.save(model, variables, tmp_path, layout="timm")


def test_a_file_and_a_folder_in_a_store(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  url = as_path("memory://bucket/weights")
  url.upload(FILE.parent)
  model, variables = weights.load(FILE.parent)
  for path in (url, str(url / FILE.name)):
    found, read = weights.load(path)
    assert found == model
    trees_equal(read, variables)
  with pytest.raises(FileNotFoundError, match="memory://bucket/other does not"):
    weights.load("memory://bucket/other/")
  assert not list(tmp_path.glob("memory*"))
