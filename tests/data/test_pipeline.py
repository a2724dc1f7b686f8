import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import mesh as mesh_lib
from jssl.data import pipeline
from jssl.data.order import Order
from jssl.data.source import InMemory

IMAGES = 50
BATCH_SIZE = 16
BATCHES_PER_EPOCH = 3


@pytest.fixture
def source():
  images = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 4, 3))
  # The label of an image is its row: it tells which rows a batch is of.
  return InMemory(
    name="rows",
    class_names=tuple(str(row) for row in range(IMAGES)),
    images=images.astype(np.uint8),
    labels=np.arange(IMAGES, dtype=np.int32),
  )


@pytest.fixture
def sharding():
  return mesh_lib.batch_sharding(mesh_lib.make_mesh(data=4, fsdp=2))


def host_labels(source, *, batches, seed=0, rows=None, workers=0):
  rows = np.arange(BATCH_SIZE) if rows is None else rows
  iterator = iter(
    pipeline.host_batches(
      source, seed=seed, batch_size=BATCH_SIZE, rows=rows, workers=workers
    )
  )
  labels = [next(iterator)["label"] for _ in range(batches)]
  iterator.close()
  return np.stack(labels)


def train(source, sharding, **options):
  return pipeline.train_batches(
    source, seed=7, batch_size=BATCH_SIZE, sharding=sharding, **options
  )


def labels_of(iterator, batches):
  return [np.asarray(next(iterator)["label"]).tolist() for _ in range(batches)]


def test_each_epoch_is_a_permutation_less_the_remainder(source):
  labels = host_labels(source, batches=4 * BATCHES_PER_EPOCH)
  epochs = labels.reshape(4, -1)
  for epoch in epochs:
    assert len(set(epoch)) == BATCHES_PER_EPOCH * BATCH_SIZE
  # Each epoch has its own order and loses its own two images.
  assert len({tuple(epoch) for epoch in epochs}) == 4
  assert len({frozenset(epoch) for epoch in epochs}) > 1


def test_order_is_a_function_of_the_seed(source):
  first = host_labels(source, batches=4, seed=1)
  np.testing.assert_array_equal(first, host_labels(source, batches=4, seed=1))
  assert (first != host_labels(source, batches=4, seed=2)).any()
  # Epoch 1 of a seed is not epoch 0 of the next.
  second_epoch = host_labels(source, batches=4, seed=0)[BATCHES_PER_EPOCH]
  assert (second_epoch != first[0]).any()


def test_images_go_with_their_labels(source, sharding):
  batch = next(train(source, sharding))
  np.testing.assert_array_equal(
    batch["image"], source.images[np.asarray(batch["label"])]
  )


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_number_of_hosts_changes_nothing(source, hosts):
  parts = [
    host_labels(source, batches=5, rows=rows)
    for rows in np.split(np.arange(BATCH_SIZE), hosts)
  ]
  np.testing.assert_array_equal(
    np.concatenate(parts, axis=1), host_labels(source, batches=5)
  )


def test_batches_lie_on_the_devices_as_told(source, sharding):
  batch = next(train(source, sharding))
  assert batch["image"].sharding.is_equivalent_to(sharding, 4)
  assert batch["label"].sharding.is_equivalent_to(sharding, 1)
  assert batch["image"].shape == (BATCH_SIZE, 4, 4, 3)
  assert batch["image"].dtype == np.uint8
  assert batch["label"].dtype == np.int32
  np.testing.assert_array_equal(
    batch["label"], host_labels(source, batches=1, seed=7)[0]
  )


def test_local_rows_follow_the_sharding(sharding):
  mesh = sharding.mesh
  all_rows = np.arange(BATCH_SIZE)
  np.testing.assert_array_equal(pipeline.local_rows(sharding, 16), all_rows)
  replicated = NamedSharding(mesh, P())
  np.testing.assert_array_equal(pipeline.local_rows(replicated, 16), all_rows)


@pytest.mark.parametrize("prefetch_batches", [0, 1, 5])
def test_state_is_that_of_the_batch_handed_out(
  source, sharding, prefetch_batches
):
  options = {"prefetch_batches": prefetch_batches}
  iterator = train(source, sharding, **options)
  labels_of(iterator, 4)
  expected = labels_of(iterator, 6)

  fresh = train(source, sharding, **options)
  labels_of(fresh, 1)
  fresh.seek(4)
  assert labels_of(fresh, 6) == expected
  # And back again, with batches of later steps already prepared.
  iterator.seek(4)
  assert labels_of(iterator, 6) == expected


def test_workers_give_the_same_batches(source, sharding):
  # An order that has more to remember than iid, and is sent to the workers.
  run = {"order": Order("hybrid", switch_epoch=1, epochs=2), "total_steps": 12}
  expected = labels_of(train(source, sharding, **run), 12)
  labels = []
  # The number of workers changes at every start.
  for workers in (2, 0, 1, 3):
    iterator = train(source, sharding, workers=workers, **run)
    iterator.seek(len(labels))
    labels += labels_of(iterator, 3)
    iterator.seek(1)
    assert labels_of(iterator, 2) == expected[1:3]
    iterator.close()
  assert labels == expected


@pytest.mark.parametrize("batch_size", [0, IMAGES + 1])
def test_batch_size_must_fit_the_set(source, sharding, batch_size):
  with pytest.raises(ValueError, match=r"data\.batch_size=.* 1 to 50"):
    pipeline.train_batches(
      source, seed=0, batch_size=batch_size, sharding=sharding
    )


@pytest.mark.parametrize("batch_size", [8, 21, 56])
def test_eval_batches_are_the_set_in_order(source, sharding, batch_size):
  labels, images = [], []
  for batch, real in pipeline.eval_batches(
    source, batch_size=batch_size, sharding=sharding
  ):
    # A multiple of the 8 devices.
    assert batch["label"].shape == (-(-batch_size // 8) * 8,)
    np.testing.assert_array_equal(batch["label"][real:], IMAGES - 1)
    labels += batch["label"][:real].tolist()
    images.append(batch["image"][:real])
  assert labels == list(range(IMAGES))
  np.testing.assert_array_equal(np.concatenate(images), source.images)


def run_python(code):
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_process_ends_while_batches_are_prefetched():
  result = run_python("""
    import jax, numpy as np
    from jssl import mesh
    from jssl.data import pipeline
    from jssl.data.source import InMemory

    def main():
      images = np.zeros((4096, 16, 16, 3), np.uint8)
      source = InMemory("x", (), images, np.zeros(4096, np.int32))
      batches = pipeline.train_batches(
        source, seed=0, batch_size=1024, prefetch_batches=3,
        sharding=mesh.batch_sharding(mesh.make_mesh(1, 1)))
      next(batches)
      raise SystemExit(3)

    main()
  """)
  assert result.returncode == 3, result.stderr
  assert not result.stderr


HOST = """
  import sys
  import jax, numpy as np
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 2)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
  from jssl import mesh
  from jssl.data import pipeline
  from jssl.data.source import InMemory
  labels = np.arange(50, dtype=np.int32)
  images = np.repeat(labels, 12).reshape(50, 2, 2, 3).astype(np.uint8)
  source = InMemory("x", (), images, labels)
  sharding = mesh.batch_sharding(mesh.make_mesh(2, 2))
  batches = pipeline.train_batches(
    source, seed=7, batch_size=16, sharding=sharding)
  whole = jax.jit(lambda x: x, out_shardings=mesh.replicated(sharding.mesh))
  for _ in range(4):
    batch = next(batches)
    assert batch["image"].shape == (16, 2, 2, 3)
    assert len(batch["label"].addressable_shards) == 2
    print(np.asarray(whole(batch["label"])).tolist())
    print(np.asarray(whole(batch["image"]))[:, 0, 0, 0].tolist())
  for batch, real in pipeline.eval_batches(
      source, batch_size=40, sharding=sharding):
    print(np.asarray(whole(batch["label"]))[:real].tolist())
  batches.close()
"""


@pytest.mark.slow
def test_two_processes_see_the_batches_of_one(source):
  import portpicker

  address = f"localhost:{portpicker.pick_unused_port()}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", textwrap.dedent(HOST), address, str(index)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  outputs = [process.communicate(timeout=300) for process in processes]
  for process, (_, errors) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, errors
  expected = host_labels(source, batches=4, seed=7).tolist()
  lines = [labels for labels in expected for _ in range(2)]
  lines += [list(range(40)), list(range(40, 50))]
  for text, _ in outputs:
    printed = [line for line in text.splitlines() if line.startswith("[")]
    assert [json.loads(line) for line in printed if line[1].isdigit()] == lines
