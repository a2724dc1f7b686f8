import jax.numpy as jnp
import numpy as np
import pytest

from jssl.data.source import InMemory
from jssl.probe import features
from jssl.probe.features import Features


def source(rows=21, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (rows, 4, 4, 1), dtype=np.uint8)
  labels = (np.arange(rows) % 3).astype(np.int32)
  return InMemory("tiny", ("a", "b", "c"), images, labels)


def flat(images):
  return jnp.reshape(images, (len(images), -1)) / 255


def extract(path, encode=flat, *, mesh):
  return features.extract(path, encode, source(), batch_size=6, mesh=mesh)


def test_scaling_gives_mean_zero_and_deviation_one(train):
  x = features.scaling(train.h)(train.h)
  np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(x.std(0), 1, rtol=1e-5)


def test_scaling_makes_constant_columns_zero(train):
  h = np.concatenate([train.h, np.full((len(train.h), 1), 0.1, "f")], 1)
  x = features.scaling(h)(h)
  np.testing.assert_array_equal(x[:, -1], 0)
  assert x[:, 0].std() > 0.9


@pytest.mark.parametrize("devices", ["one_device", "eight_devices"])
def test_rows_are_in_order_and_the_last_batch_is_cut(
  request, tmp_path, devices
):
  mesh = request.getfixturevalue(devices)
  found = extract(tmp_path / "features" / "x.npy", mesh=mesh)
  rows = source()
  np.testing.assert_allclose(
    found.h, rows.images.reshape(21, 16) / np.float32(255), rtol=1e-6
  )
  np.testing.assert_array_equal(found.labels, rows.labels)
  assert found.num_classes == 3
  assert found.h.dtype == np.float32
  assert isinstance(found.h, np.memmap)


def test_what_was_kept_is_not_made_again(tmp_path, one_device):
  first = extract(tmp_path / "x.npy", mesh=one_device)

  def fail(images):
    raise AssertionError("extracted twice")

  again = extract(tmp_path / "x.npy", encode=fail, mesh=one_device)
  np.testing.assert_array_equal(first.h, again.h)


def test_nothing_is_left_of_an_extraction_that_fails(tmp_path, one_device):
  calls = []

  def fail(images):
    calls.append(1)
    if len(calls) == 3:
      raise OSError("No space left on device")
    return flat(images)

  with pytest.raises(OSError, match="No space"):
    extract(tmp_path / "x.npy", encode=fail, mesh=one_device)
  assert not list(tmp_path.iterdir())
  assert len(extract(tmp_path / "x.npy", mesh=one_device).labels) == 21


def test_features_that_are_not_finite_are_refused(tmp_path, one_device):
  def encode(images):
    # Two of each batch of 6, of which there are four with 21 images.
    return flat(images).at[jnp.array([1, 2]), 3].set(jnp.inf)

  message = "x: 8 of 21 rows of features are not finite"
  with pytest.raises(features.NotFiniteError, match=message):
    extract(tmp_path / "x.npy", encode=encode, mesh=one_device)
  assert not list(tmp_path.iterdir())


def test_the_path_tells_and_depends_on_the_key(tmp_path):
  where = {"dataset": "set/a:1.0", "split": "train[:9%]", "name": "step7"}
  one = features.path(tmp_path, **where, key="aa")
  assert one.parent == tmp_path / "features"
  assert one.name == "set_a_1.0-train__9__-step7-aa.npy"
  assert one != features.path(tmp_path, **where, key="bb")


def test_digests_see_every_part_and_where_it_ends():
  assert features.digest("ab", "c") != features.digest("a", "bc")
  assert features.digest("ab") == features.digest(b"ab")


def test_the_digest_of_variables_sees_names_and_values():
  one = features.variables_digest({"a": jnp.ones(3), "b": jnp.zeros(3)})
  assert one == features.variables_digest(
    {"a": np.ones(3, "f"), "b": jnp.zeros(3)}
  )
  assert one != features.variables_digest({"b": jnp.ones(3), "a": jnp.zeros(3)})
  assert one != features.variables_digest(
    {"a": jnp.ones(3).at[1].add(1e-6), "b": jnp.zeros(3)}
  )


def test_the_digest_of_a_source_sees_its_images():
  assert features.source_digest(source()) == features.source_digest(source())
  assert features.source_digest(source()) != features.source_digest(source(20))
  assert features.source_digest(source()) != features.source_digest(
    source(seed=1)
  )


def test_features_go_with_their_checkpoint(tmp_path, one_device):
  for name in ("step1", "step12", "random", "pixels"):
    path = features.path(
      tmp_path, dataset="d", split="train", name=name, key="0a"
    )
    extract(path, mesh=one_device)
  features.forget_all_but(tmp_path, [12])
  kept = {path.name for path in (tmp_path / "features").iterdir()}
  assert kept == {
    f"d-train-{name}-0a{end}"
    for name in ("step12", "random", "pixels")
    for end in (".npy", ".labels.npz")
  }


def test_export_has_both_splits(tmp_path, train, test):
  features.export(tmp_path / "sub" / "f.npz", train, test, "teacher")
  with np.load(tmp_path / "sub" / "f.npz") as arrays:
    assert arrays["backbone"] == "teacher"
    assert set(arrays) - {"backbone"} == {
      f"{split}_{what}"
      for split in ("train", "test")
      for what in ("features", "labels")
    }
    np.testing.assert_array_equal(arrays["train_features"], train.h)
    np.testing.assert_array_equal(arrays["test_labels"], test.labels)


def test_any_reader_of_npy_files_agrees(tmp_path, train):
  # The header is written before the rows are known.
  path = tmp_path / "x.npy"
  features.write(
    path,
    302,
    [(train.h[:200], train.labels[:200])] * 1
    + [(train.h[200:], train.labels[200:])],
  )
  np.testing.assert_array_equal(np.load(path), train.h)
  found = features.cached(path, 4)
  assert isinstance(found, Features)
  np.testing.assert_array_equal(found.h, train.h)
  np.testing.assert_array_equal(found.labels, train.labels)


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-8])


def _zero(path):
  path.write_bytes(bytes(path.stat().st_size))


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize("name", ["x.npy", "x.labels.npz"])
@pytest.mark.parametrize(
  "damage", [_truncate, _zero, _flip, lambda path: path.unlink()]
)
def test_damaged_features_are_extracted_again(
  tmp_path, one_device, caplog, name, damage
):
  first = extract(tmp_path / "x.npy", mesh=one_device)
  expected = np.array(first.h), first.labels
  damage(tmp_path / name)
  again = extract(tmp_path / "x.npy", mesh=one_device)
  np.testing.assert_array_equal(again.h, expected[0])
  np.testing.assert_array_equal(again.labels, expected[1])
  if (tmp_path / name).name != "x.npy" or damage in (_truncate, _zero, _flip):
    assert f"damaged features in {tmp_path / 'x.npy'}" in caplog.text
