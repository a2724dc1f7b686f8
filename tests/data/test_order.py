import itertools

import numpy as np
import pytest
from data.stores import STORES, noise

from jssl import mesh as mesh_lib
from jssl.data import order as order_lib
from jssl.data import pipeline
from jssl.data.open import open_source
from jssl.data.order import Order
from jssl.data.source import InMemory

SEED = 7
IMAGES = 100
BATCH_SIZE = 8
STEPS_PER_EPOCH = 12
EPOCHS = 6
STEPS = EPOCHS * STEPS_PER_EPOCH
SWITCH_EPOCH = 4
# Six chunks of 100 images: 0, 16, 33, 50, 66, 83, 100.
CHUNKS = [range(0, 16), range(16, 33), range(33, 50)]
CHUNKS += [range(50, 66), range(66, 83), range(83, 100)]

ORDERS = {
  "iid": Order(),
  "continual": Order("continual"),
  "accumulate": Order("accumulate"),
  "subset": Order("subset", fraction=0.25),
  "hybrid": Order("hybrid", switch_epoch=SWITCH_EPOCH),
}
each_order = pytest.mark.parametrize(
  "order", ORDERS.values(), ids=ORDERS.keys()
)


def rows_of(order, *, steps=STEPS, epochs=EPOCHS, seed=SEED):
  return [
    order_lib.rows(
      order,
      step,
      seed=seed,
      images=IMAGES,
      batch_size=BATCH_SIZE,
      epochs=epochs,
    ).tolist()
    for step in range(steps)
  ]


def epochs_of(order, **run):
  batches = rows_of(order, **run)
  return [
    batches[start : start + STEPS_PER_EPOCH]
    for start in range(0, len(batches), STEPS_PER_EPOCH)
  ]


def seen(epoch):
  return set(itertools.chain(*epoch))


def shuffled(key, items):
  """Sorts items by the raw bits of Philox, which NumPy promises to keep."""
  bits = np.random.Philox(key).random_raw(len(items)).tolist()
  return [item for _, item in sorted(zip(bits, items, strict=True))]


FIXED = shuffled([SEED, 0, 0, 1], range(IMAGES))


def part_of(name, epoch):
  """Returns the images that an epoch may see, in their fixed order."""
  match name:
    case "continual":
      return [FIXED[row] for row in CHUNKS[epoch]]
    case "accumulate":
      return FIXED[: CHUNKS[epoch].stop]
    case "subset":
      return FIXED[:25]
    case "hybrid" if epoch < SWITCH_EPOCH:
      return [FIXED[row] for row in CHUNKS[epoch]]
  return list(range(IMAGES))


def expected_epoch(name, epoch):
  """Fills an epoch with passes over its part, each cut into whole batches."""
  part, batches = part_of(name, epoch), []
  for nth_pass in itertools.count():
    images = shuffled([SEED, epoch, nth_pass], part)
    while len(images) >= BATCH_SIZE:
      if len(batches) == STEPS_PER_EPOCH:
        return batches
      batches.append(images[:BATCH_SIZE])
      images = images[BATCH_SIZE:]


@each_order
def test_order_does_not_change_between_versions(order):
  expected = [expected_epoch(order.name, epoch) for epoch in range(EPOCHS)]
  assert epochs_of(order) == expected


@pytest.mark.parametrize("seed", [0, 5, 2**40 + 1])
def test_iid_is_as_it_was_before_there_were_orders(seed):
  batches = rows_of(Order(), seed=seed)
  for step, batch in enumerate(batches):
    epoch, start = divmod(step * BATCH_SIZE, STEPS_PER_EPOCH * BATCH_SIZE)
    bits = np.random.Philox([seed, epoch]).random_raw(IMAGES)
    permutation = np.argsort(bits, kind="stable")
    assert batch == permutation[start : start + BATCH_SIZE].tolist()
    assert batch == (
      order_lib.shuffled_rows(
        step, seed=seed, images=IMAGES, batch_size=BATCH_SIZE
      ).tolist()
    )


@each_order
def test_every_step_has_a_whole_batch_of_different_images(order):
  # Beyond the end of the run, where batches are made ahead, too.
  for batch in rows_of(order, steps=STEPS + 2 * STEPS_PER_EPOCH):
    assert len(batch) == len(set(batch)) == BATCH_SIZE
    assert set(batch) <= set(range(IMAGES))


def test_continual_sees_each_chunk_in_one_epoch_alone():
  chunks = [seen(epoch) for epoch in epochs_of(ORDERS["continual"])]
  assert chunks == [{FIXED[row] for row in chunk} for chunk in CHUNKS]
  assert sum(map(len, chunks)) == len(set.union(*chunks)) == IMAGES
  # The chunks are of a permutation: a set that is sorted by class has its
  # classes in all of them.
  assert all(max(chunk) - min(chunk) > IMAGES / 2 for chunk in chunks)


def test_continual_repeats_its_chunk_in_another_order():
  for epoch in epochs_of(ORDERS["continual"]):
    passes = [tuple(epoch[i] + epoch[i + 1]) for i in range(0, len(epoch), 2)]
    assert len(set(passes)) == 6
    # Two batches are a pass: all of a chunk of 16, or all but one of 17.
    for images in passes:
      assert len(set(images)) == 16


def test_accumulate_grows_to_the_whole_set():
  sets = [seen(epoch) for epoch in epochs_of(ORDERS["accumulate"])]
  chunks = [{FIXED[row] for row in chunk} for chunk in CHUNKS]
  for epoch in range(EPOCHS):
    available = set.union(*chunks[: epoch + 1])
    assert sets[epoch] <= available
    # The epoch goes through its part at least once, less a remainder.
    least = len(available) - len(available) % BATCH_SIZE
    assert len(sets[epoch]) >= least
    # So the newest images are among them, and older ones as well.
    assert sets[epoch] & chunks[epoch]
    assert all(sets[epoch] & chunk for chunk in chunks[:epoch])
  assert seen(epochs_of(ORDERS["accumulate"])[0]) == chunks[0]


def test_subset_is_the_same_in_every_epoch():
  sets = [seen(epoch) for epoch in epochs_of(ORDERS["subset"])]
  assert sets == [set(FIXED[:25])] * EPOCHS
  # A smaller one is a part of a larger one.
  small = Order("subset", fraction=0.12)
  assert seen(rows_of(small)) == set(FIXED[:12])
  # A product of floats that is a hair too small takes its last image, too.
  assert seen(rows_of(Order("subset", fraction=0.29))) == set(FIXED[:29])


def test_hybrid_is_continual_and_then_iid():
  switch = SWITCH_EPOCH * STEPS_PER_EPOCH
  hybrid = rows_of(ORDERS["hybrid"])
  assert hybrid[:switch] == rows_of(ORDERS["continual"])[:switch]
  assert hybrid[switch:] == rows_of(ORDERS["iid"])[switch:]


def test_seeds_have_chunks_of_their_own():
  first = epochs_of(ORDERS["continual"], seed=0)
  second = epochs_of(ORDERS["continual"], seed=1)
  assert seen(first[0]) != seen(second[0])


def test_a_run_of_fewer_epochs_than_chunks_ends_earlier():
  order = Order("continual", epochs=EPOCHS)
  half = STEPS // 2
  assert rows_of(order, steps=half, epochs=3) == rows_of(order)[:half]


def test_a_run_of_more_epochs_than_chunks_stays_with_each():
  chunks = epochs_of(Order("continual", epochs=4))
  quarters = [set(FIXED[start : start + 25]) for start in (0, 25, 50, 75)]
  expected = [quarters[chunk] for chunk in (0, 0, 1, 2, 2, 3)]
  assert [seen(epoch) for epoch in chunks] == expected
  # The second epoch of a chunk is not the first again.
  assert chunks[0] != chunks[1]


def test_after_the_run_continual_stays_with_its_last_chunk():
  epochs = epochs_of(ORDERS["continual"], steps=STEPS + 2 * STEPS_PER_EPOCH)
  last = {FIXED[row] for row in CHUNKS[-1]}
  assert [seen(epoch) for epoch in epochs[-3:]] == [last] * 3


@pytest.mark.parametrize(
  ("steps", "epochs"), [(1, 1), (12, 1), (13, 2), (72, 6)]
)
def test_the_last_epoch_of_a_run_may_be_cut_short(steps, epochs):
  run = {"images": IMAGES, "batch_size": BATCH_SIZE}
  assert order_lib.run_epochs(steps, **run) == epochs


def test_nothing_is_sorted_twice():
  order_lib._permutation.cache_clear()
  rows_of(ORDERS["continual"])
  # The fixed permutation, and six passes over the chunk of each epoch.
  assert order_lib._permutation.cache_info().misses == 1 + 6 * EPOCHS


# The chain of batches.


@pytest.fixture(scope="module", params=["memory", *STORES])
def source(request, tmp_path_factory):
  # Labels are different, and tell which rows a batch is of.
  labels = list(range(IMAGES))
  if request.param != "memory":
    data_dir = tmp_path_factory.mktemp("data")
    split = (noise(IMAGES, (2, 2, 3)), labels)
    names = list(map(str, labels))
    STORES[request.param](data_dir / "rows", {"train": split}, names)
    return open_source("rows", data_dir=str(data_dir), image_size_px=2)
  return InMemory(
    name="rows",
    class_names=(),
    images=np.zeros((IMAGES, 1, 1, 1), np.uint8),
    labels=np.array(labels, np.int32),
  )


# Hybrid is continual first and iid later.
each_store_and_order = pytest.mark.parametrize(
  ("source", "order"),
  [
    pytest.param(
      store,
      order,
      id=f"{store}-{name}",
      marks=[] if store == "memory" or name == "hybrid" else pytest.mark.slow,
    )
    for store in ("memory", *STORES)
    for name, order in ORDERS.items()
  ],
  indirect=["source"],
)


def labels_of_rows(source, rows):
  """The labels of rows, if the source has each image once."""
  labels = source.fetch(np.arange(IMAGES))["label"]
  assert sorted(labels) == list(range(IMAGES))
  return labels[np.array(rows)].tolist()


def train(source, order):
  return pipeline.train_batches(
    source,
    seed=SEED,
    batch_size=BATCH_SIZE,
    sharding=mesh_lib.batch_sharding(mesh_lib.make_mesh(data=4, fsdp=2)),
    order=order,
    total_steps=STEPS,
  )


def labels_of(iterator, batches):
  return [np.asarray(next(iterator)["label"]).tolist() for _ in range(batches)]


@each_store_and_order
def test_a_run_is_resumed_at_any_step(source, order):
  expected = labels_of_rows(source, rows_of(order))
  iterator = train(source, order)
  assert labels_of(iterator, len(expected)) == expected
  iterator.close()

  fresh = train(source, order)
  steps = np.random.default_rng(0).permutation(STEPS - 3)
  for step in steps if isinstance(source, InMemory) else steps[::8]:
    fresh.seek(int(step))
    assert labels_of(fresh, 3) == expected[step : step + 3]
  fresh.close()


@each_store_and_order
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_number_of_hosts_changes_nothing(source, order, hosts):
  parts = []
  for rows in np.split(np.arange(BATCH_SIZE), hosts):
    batches = iter(
      pipeline.host_batches(
        source,
        seed=SEED,
        batch_size=BATCH_SIZE,
        rows=rows,
        order=order,
        total_steps=STEPS,
      )
    )
    parts.append([next(batches)["label"] for _ in range(STEPS)])
    batches.close()
  np.testing.assert_array_equal(
    np.concatenate(parts, axis=1), labels_of_rows(source, rows_of(order))
  )


def test_batches_are_iid_unless_told(source):
  batches = iter(
    pipeline.host_batches(
      source, seed=SEED, batch_size=BATCH_SIZE, rows=np.arange(BATCH_SIZE)
    )
  )
  labels = [next(batches)["label"].tolist() for _ in range(STEPS)]
  assert labels == labels_of_rows(source, rows_of(ORDERS["iid"]))


# Errors.


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "random"}, r"order\.name='random'.*iid, continual"),
    ({"fraction": 0.0}, r"order\.fraction=0\.0 must be in \(0, 1\]"),
    ({"fraction": 1.5}, r"order\.fraction=1\.5"),
    ({"fraction": float("nan")}, r"order\.fraction=nan"),
    ({"switch_epoch": -1}, r"order\.switch_epoch=-1"),
    ({"epochs": -1}, r"order\.epochs=-1"),
  ],
)
def test_numbers_out_of_range_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Order(**fields)


@pytest.mark.parametrize("switch_epoch", [0, EPOCHS, EPOCHS + 1])
def test_hybrid_must_switch_within_the_run(switch_epoch):
  order = Order("hybrid", switch_epoch=switch_epoch)
  with pytest.raises(
    ValueError,
    match=rf"order\.switch_epoch={switch_epoch}: .*before epoch 6.*"
    r"train\.steps=72, data\.batch_size=8",
  ):
    order.check(images=IMAGES, batch_size=BATCH_SIZE, steps=STEPS)


@pytest.mark.parametrize("name", ["continual", "accumulate", "hybrid"])
def test_a_chunk_must_fill_a_batch(name):
  run = {"images": IMAGES, "batch_size": BATCH_SIZE}
  # 12 epochs are the most: chunks of 8 or 9.
  order = Order(name, switch_epoch=3)
  order.check(steps=12 * STEPS_PER_EPOCH, **run)
  message = (
    rf"data\.batch_size=8 is larger than the 7 of 100 images that .*{name}"
    r".*: .* an order\.epochs of 1 to 12, or a smaller data\.batch"
  )
  with pytest.raises(ValueError, match=message):
    order.check(steps=12 * STEPS_PER_EPOCH + 1, **run)
  with pytest.raises(ValueError, match=message):
    Order(name, switch_epoch=3, epochs=13).check(steps=STEPS, **run)
  # What the message says helps.
  Order(name, switch_epoch=3, epochs=12).check(steps=145, **run)


def test_a_subset_must_fill_a_batch():
  run = {"images": IMAGES, "batch_size": BATCH_SIZE, "steps": STEPS}
  Order("subset", fraction=0.08).check(**run)
  with pytest.raises(
    ValueError,
    match=r"data\.batch_size=8 is larger than the 7 of 100 images that .*subset"
    r".*: .* an order\.fraction of at least 8/100",
  ):
    Order("subset", fraction=0.07).check(**run)


@pytest.mark.parametrize("batch_size", [0, IMAGES + 1])
def test_a_batch_must_fit_the_set(batch_size):
  with pytest.raises(ValueError, match=r"data\.batch_size=.* 1 to 100"):
    ORDERS["subset"].check(images=IMAGES, batch_size=batch_size, steps=STEPS)


def test_iid_goes_with_every_run():
  Order().check(images=IMAGES, batch_size=IMAGES, steps=1)
  Order().check(images=IMAGES, batch_size=BATCH_SIZE, steps=0)


def test_the_chain_checks_the_order(source):
  with pytest.raises(
    ValueError, match=r"train\.steps=0 must be at least 1: .*'continual'"
  ):
    pipeline.host_batches(
      source,
      seed=SEED,
      batch_size=BATCH_SIZE,
      rows=np.arange(BATCH_SIZE),
      order=ORDERS["continual"],
    )


@pytest.mark.parametrize("name", ["iid", "subset", "hybrid", "continual"])
@pytest.mark.parametrize("chunks", [0, 4, 2 * EPOCHS])
@pytest.mark.parametrize("longer", [EPOCHS, 2 * EPOCHS])
def test_a_longer_run_has_the_rows_of_the_run_so_far(name, chunks, longer):
  """Where it would have others, it is refused."""
  order = Order(name=name, switch_epoch=SWITCH_EPOCH, epochs=chunks)
  before, after = (rows_of(order, epochs=epochs) for epochs in (EPOCHS, longer))
  run = {"images": IMAGES, "batch_size": BATCH_SIZE, "steps": STEPS}
  longer_steps = longer * STEPS_PER_EPOCH
  if after == before:
    order.check_longer(**run, longer=longer_steps)
  else:
    assert name in ("hybrid", "continual")
    assert chunks < longer
    with pytest.raises(
      ValueError, match=rf"train\.steps={longer_steps}.*{name}"
    ):
      order.check_longer(**run, longer=longer_steps)
