import json
import pathlib
import re
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jssl import checkpoint
from jssl.checkpoint import CheckpointError, Checkpoints, NotSavedError
from jssl.runtime import files
from jssl.runtime.paths import as_path


def items(scale=1.0):
  return {
    "backbone": {"params": {"dense": {"w": scale * jnp.arange(64.0)}}},
    "training": {
      "rng": jax.random.key(7),
      "opt_state": ({"moments": (scale * jnp.ones((8, 2)),)}, jnp.int32(3)),
      "seconds": np.asarray(1 / 3),
    },
  }


def abstract(tree, sharding=None):
  sharding = sharding or SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: (
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
      if isinstance(x, jax.Array)
      else x
    ),
    tree,
  )


def opened(workdir, keep_last=2, keep_every_steps=None):
  return Checkpoints(
    workdir, keep_last=keep_last, keep_every_steps=keep_every_steps
  )


def save(workdir, *steps, **keep):
  with opened(workdir, **keep) as checkpoints:
    for step in steps:
      checkpoints.save(step, items(step))


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)


def an_array_file(workdir, step) -> pathlib.Path:
  paths = pathlib.Path(workdir).glob(f"checkpoints/{step}/backbone/d/*")
  return max(paths, key=lambda path: path.stat().st_size)


def test_the_state_comes_back(tmp_path):
  save(tmp_path, 4)
  with opened(tmp_path) as checkpoints:
    step, restored = checkpoints.restore_latest(abstract(items()))
  assert step == 4
  assert_equal(restored, items(4))


def test_nothing_to_restore(tmp_path):
  with opened(tmp_path) as checkpoints:
    assert checkpoints.restore_latest(abstract(items())) is None
  assert checkpoint.steps(tmp_path) == []


def test_what_was_saved_is_what_was_there_when_save_was_called(tmp_path):
  """The arrays are donated to the next step while the files are written."""
  state = items()
  advance = jax.jit(lambda w: w + 1, donate_argnums=0)
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    w = state["backbone"]["params"]["dense"]["w"]
    for _ in range(100):
      w = advance(w)
  assert_equal(checkpoint.restore_backbone(tmp_path, 1), items()["backbone"])


def test_onto_another_mesh(tmp_path):
  mesh = jax.make_mesh((8,), ("data",))
  split = NamedSharding(mesh, P("data"))
  w = jax.device_put(jnp.arange(64.0), split)
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, {"backbone": {"w": w}})
  other = NamedSharding(jax.make_mesh((2, 2), ("a", "b")), P("b"))
  wanted = {"backbone": {"w": abstract(w, other)}}
  restored = checkpoint.restore(tmp_path, 1, wanted)["backbone"]["w"]
  np.testing.assert_array_equal(restored, w)
  assert restored.sharding == other


def test_the_backbone_alone(tmp_path):
  save(tmp_path, 1)
  variables = checkpoint.restore_backbone(tmp_path, 1)
  assert_equal(variables, items()["backbone"])
  w = variables["params"]["dense"]["w"]
  assert w.sharding == SingleDeviceSharding(jax.devices()[0])


def test_keep_policy(tmp_path):
  save(tmp_path, 1, 2)
  pin(tmp_path, 2, 0.7)
  save(tmp_path, 3, 4, 5, 6, 7, keep_last=2, keep_every_steps=4)
  # The two last, the multiples of four, and the pinned one.
  assert checkpoint.steps(tmp_path) == [2, 4, 6, 7]


def pin(workdir, step, score, features="teacher, pooled"):
  checkpoint.pin_best(workdir, step=step, score=score, features=features)


def test_only_a_better_score_moves_the_pin(tmp_path):
  assert checkpoint.best_step(tmp_path) is None
  save(tmp_path, 1, 2, 3, keep_last=3)
  for step, score, best in [(1, 0.5, 1), (2, 0.4, 1), (3, 0.6, 3)]:
    pin(tmp_path, step, score)
    assert checkpoint.best_step(tmp_path) == best
  # A score of other features is not compared.
  pin(tmp_path, 2, 0.1, "teacher, cls of 4 blocks")
  assert checkpoint.best_step(tmp_path) == 2


def test_a_pin_of_an_earlier_version_moves(tmp_path):
  """Its score may be of the student of a method that averages it."""
  save(tmp_path, 1, 2)
  (tmp_path / "best.json").write_text('{"step": 1, "score": 0.9}')
  assert checkpoint.best_step(tmp_path) == 1
  pin(tmp_path, 2, 0.5)
  assert checkpoint.best_step(tmp_path) == 2


@pytest.mark.parametrize("score", [0.9, float("nan"), float("inf")])
def test_a_pin_of_a_lost_checkpoint_or_without_a_score_moves(tmp_path, score):
  save(tmp_path, 2, 3)
  lost = {"step": 1, "score": score, "features": "teacher, pooled"}
  (tmp_path / "best.json").write_text(json.dumps(lost))
  pin(tmp_path, 2, 0.5)
  assert checkpoint.best_step(tmp_path) == 2


def flip_a_byte(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, pathlib.Path.unlink])
def test_a_damaged_checkpoint_is_logged_and_an_older_one_used(
  tmp_path, damage, caplog
):
  save(tmp_path, 1, 2)
  damage(an_array_file(tmp_path, 2))
  with opened(tmp_path) as checkpoints:
    step, restored = checkpoints.restore_latest(abstract(items()))
    assert step == 1
    assert_equal(restored, items(1))
    assert f"{tmp_path / 'checkpoints' / '2'}: 1 of" in caplog.text
    assert (tmp_path / "damaged" / "2").is_dir()
    checkpoints.save(2, items(2))
  assert checkpoint.steps(tmp_path) == [1, 2]


def test_a_checkpoint_without_manifest_does_not_count(tmp_path):
  """The run was killed after Orbax had finished and before we had."""
  save(tmp_path, 1, 2)
  (tmp_path / "checkpoints" / "2" / "manifest.json").unlink()
  assert checkpoint.steps(tmp_path) == [1]
  with opened(tmp_path) as checkpoints:
    step, _ = checkpoints.restore_latest(abstract(items()))
  assert step == 1


def test_where_all_are_damaged_nothing_is_given_up(tmp_path):
  save(tmp_path, 1, 2)
  for step in (1, 2):
    an_array_file(tmp_path, step).write_bytes(b"damaged")
  with (
    opened(tmp_path) as checkpoints,
    pytest.raises(CheckpointError, match="all checkpoints are damaged; delete"),
  ):
    checkpoints.restore_latest(abstract(items()))
  assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_where_none_was_finished_the_run_starts_anew(tmp_path):
  save(tmp_path, 1)
  (tmp_path / "checkpoints" / "1" / "manifest.json").unlink()
  with opened(tmp_path) as checkpoints:
    assert checkpoints.restore_latest(abstract(items())) is None
    checkpoints.save(1, items())
  assert checkpoint.steps(tmp_path) == [1]


def test_reading_a_damaged_backbone_raises(tmp_path):
  save(tmp_path, 1)
  flip_a_byte(an_array_file(tmp_path, 1))
  with pytest.raises(CheckpointError, match="files are damaged or missing"):
    checkpoint.restore_backbone(tmp_path, 1)


def test_a_manifest_cut_short(tmp_path):
  save(tmp_path, 1)
  truncate(tmp_path / "checkpoints" / "1" / "manifest.json")
  with pytest.raises(CheckpointError, match="no readable manifest"):
    checkpoint.restore_backbone(tmp_path, 1)


def test_other_arrays_are_named(tmp_path):
  save(tmp_path, 1)
  wanted = abstract(items())
  dense = wanted["backbone"]["params"].pop("dense")
  wanted["backbone"]["params"]["linear"] = dense
  wanted["training"]["opt_state"][0]["moments"] = (abstract(jnp.ones((9, 2))),)
  with (
    opened(tmp_path) as checkpoints,
    pytest.raises(CheckpointError) as caught,
  ):
    checkpoints.restore_latest(wanted)
  message = str(caught.value)
  assert "backbone/params/linear/w: saved nothing, expected ['float" in message
  assert "backbone/params/dense/w: saved ['float32', [64]], expected no" in (
    message
  )
  assert (
    "training/opt_state/0/moments/0: saved ['float32', [8, 2]], expected "
    "['float32', [9, 2]]" in message
  )


def test_a_failed_save_is_told_and_the_next_one_tried(tmp_path, monkeypatch):
  """As on a full disk: the manifest of step 2 can't be written."""
  original = files.write_json
  full = {"disk": True}

  def write(path, value):
    if full["disk"] and path.parent.name == "2":
      raise OSError(28, "No space left on device")
    original(path, value)

  monkeypatch.setattr(files, "write_json", write)
  with opened(tmp_path) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, items(step))
  assert checkpoint.steps(tmp_path) == [1, 3]
  with pytest.raises(CheckpointError, match="No space left"):
    save(tmp_path / "other", 1, 2)
  assert checkpoint.steps(tmp_path / "other") == [1]


def test_too_many_open_files_are_no_full_disk(tmp_path, monkeypatch):
  def write(path, value):
    raise OSError(24, "Too many open files", str(path))

  monkeypatch.setattr(files, "write_json", write)
  with pytest.raises(CheckpointError, match="with `ulimit -n`") as raised:
    save(tmp_path, 1)
  # A later attempt would not succeed.
  assert not isinstance(raised.value, NotSavedError)


def test_a_disk_that_fills_up_costs_one_checkpoint(tmp_path):
  """Files can't grow over 64 KiB while step 2 is saved."""
  rng = np.random.default_rng(0)

  def large(step):
    found = items(step)
    found["backbone"]["params"]["dense"]["w"] = jnp.asarray(
      rng.normal(size=2**18)
    )
    return found

  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, large(1))
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
      checkpoints.save(2, large(2))
      with pytest.raises(
        CheckpointError,
        match=r"could not save checkpoint at step 2 \(1\.0 MiB\)",
      ):
        checkpoints.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.save(3, large(3))
  assert checkpoint.steps(tmp_path) == [1, 3]


def test_manifest_lists_every_leaf(tmp_path):
  save(tmp_path, 1)
  path = tmp_path / "checkpoints" / "1" / "manifest.json"
  leaves = json.loads(path.read_text())["leaves"]
  assert leaves["backbone/params/dense/w"] == ["float32", [64]]
  assert set(leaves) == {
    "backbone/params/dense/w",
    "training/rng",
    "training/opt_state/0/moments/0",
    "training/opt_state/1",
    "training/seconds",
  }


@pytest.mark.parametrize(
  "content",
  [
    *("[1, 2]", "3", '{"files": [], "leaves": 1}'),
    '{"files": {}, "leaves": {}, "facts": []}',
  ],
)
def test_a_manifest_of_another_type(tmp_path, content):
  save(tmp_path, 1, 2)
  path = tmp_path / "checkpoints" / "2" / "manifest.json"
  path.write_text(content)
  with pytest.raises(CheckpointError, match="2: no readable manifest"):
    checkpoint.restore_backbone(tmp_path, 2)
  with opened(tmp_path) as checkpoints:
    step, _ = checkpoints.restore_latest(abstract(items()))
  assert step == 1


@pytest.mark.parametrize("content", ["", "[3]", '{"step": "a", "score": 1}'])
def test_a_damaged_pin_is_written_anew(tmp_path, content, caplog):
  path = tmp_path / "best.json"
  path.write_text(content)
  assert checkpoint.best_step(tmp_path) is None
  assert f"damaged {path}" in caplog.text
  save(tmp_path, 1, 2, 3)
  pin(tmp_path, 3, 0.1)
  assert checkpoint.best_step(tmp_path) == 3


def test_other_images_are_refused(tmp_path):
  def run(images):
    return Checkpoints(
      tmp_path, keep_last=2, keep_every_steps=None, facts={"images": images}
    )

  with run("60 images") as checkpoints:
    checkpoints.save(1, items())
  with run("60 images") as checkpoints:
    assert checkpoints.restore_latest(abstract(items()))[0] == 1
  with (
    run("90 images") as checkpoints,
    pytest.raises(
      CheckpointError, match="images: was '60 images', now '90 images'"
    ),
  ):
    checkpoints.restore_latest(abstract(items()))


def test_another_precision_is_refused_or_told(tmp_path, x64, caplog):
  for name, dtype in (("double", jnp.float64), ("single", jnp.float32)):
    with Checkpoints(
      tmp_path / name,
      keep_last=2,
      keep_every_steps=None,
      facts={checkpoint.X64: True},
    ) as checkpoints:
      w = {"w": jnp.ones(3, dtype)}
      checkpoints.save(1, {"backbone": w})
  with jax.enable_x64(False):
    with pytest.raises(CheckpointError, match="set JAX_ENABLE_X64=1"):
      checkpoint.restore_backbone(tmp_path / "double", 1)
    checkpoint.restore_backbone(tmp_path / "single", 1)
    assert "saved with jax_enable_x64=True, now False" in caplog.text
  checkpoint.restore_backbone(tmp_path / "double", 1)


def test_the_averaged_backbone_is_read_without_the_optimizer(tmp_path):
  backbone = {"params": {"w": jnp.arange(3.0)}}
  teacher = {"params": {"w": jnp.arange(3.0) / 2}}
  noise = np.random.default_rng(0).random(2_000_000, np.float32)
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, {"backbone": backbone})
    training = {"teacher": teacher, "opt_state": (jnp.asarray(noise),)}
    checkpoints.save(2, {"backbone": backbone, "training": training})

  def bytes_read():
    text = pathlib.Path("/proc/self/io").read_text()
    return int(re.search(r"rchar: (\d+)", text)[1])

  before = bytes_read()
  found = checkpoint.restore_backbone(
    tmp_path, 2, teacher=True, check_files=False
  )
  assert bytes_read() - before < noise.nbytes / 10
  assert_equal(found, teacher)
  assert_equal(checkpoint.restore_backbone(tmp_path, 2), backbone)
  with pytest.raises(CheckpointError, match="no arrays of training/teacher"):
    checkpoint.restore_backbone(tmp_path, 1, teacher=True)


@pytest.mark.usefixtures("bucket")
def test_checkpoints_in_a_bucket():
  workdir = as_path("gs://bucket/checkpointer")
  save(workdir, 2, 3)
  # It was killed before the manifest was written.
  (workdir / "checkpoints" / "3" / "manifest.json").unlink()
  with opened(workdir, keep_last=1) as checkpoints:
    step, restored = checkpoints.restore_latest(abstract(items()))
    assert step == 2
    assert_equal(restored, items(2))
    checkpoints.save(3, items(5))
  assert checkpoint.steps(workdir) == [3]
  assert (workdir / "damaged" / "3" / "backbone").is_dir()
  assert_equal(checkpoint.restore_backbone(workdir, 3), items(5)["backbone"])
