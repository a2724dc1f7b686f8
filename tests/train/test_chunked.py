"""A batch in chunks is the batch: features, gradients, statistics, memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.cases import BY_NAME

from jssl.augment import Augment
from jssl.config.build import build_optimizer
from jssl.mesh import batch_sharding, make_mesh
from jssl.models.resnet import ResNet
from jssl.models.tokens import Encoded, Spec
from jssl.models.vit import ViT
from jssl.objectives.encode import encode, make_encoder, rows_of
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.preflight import cost
from jssl.train.chunked import encode_with_pullback, join, split
from jssl.train.state import init_state
from jssl.train.step import make_train_step

B, CHUNKS = 16, 8
LARGE = Augment(crop_size_px=16, crop_min_area=0.3, flip_probability=0.5)
MULTI = Augment(
  crop_size_px=16,
  crop_min_area=0.3,
  flip_probability=0.5,
  num_small=3,
  small_crop_size_px=8,
  small_blur_probability=0.0,
)
VIT = ViT(patch_size_px=8, width=16, depth=2, num_heads=2, drop_path=0.4)
ROPE = dataclasses.replace(
  VIT, drop_path=0.0, positions="rope", rope_rescale=2.0, num_registers=1
)
SIMCLR = BY_NAME["simclr"].objective
IMAGES = np.random.default_rng(0).integers(0, 256, (B, 16, 16, 3), np.uint8)


@functools.cache
def variables_of(model):
  backbone = model.backbone()
  first, second = jax.tree.map(
    lambda leaf: leaf.astype(model.dtype),
    [backbone.init(jax.random.key(i), (16, 16, 3)) for i in range(2)],
  )
  return backbone, first, second


@functools.cache
def program(model, augment, chunks, shards=1):
  """`(params, rows, cotangents) -> (encoded, gradients)`, compiled."""
  backbone, variables, teacher = variables_of(model)
  encoder = make_encoder(backbone, augment, SIMCLR)

  @jax.jit
  def run(params, rows, cotangents):
    encoded, pullback = encode_with_pullback(
      encoder,
      {**variables, "params": params},
      (teacher,),
      rows,
      chunks=chunks,
      shards=shards,
    )
    return encoded, pullback(cotangents)

  return run


def random_cotangents(augment, width, key=0):
  shapes = [(2, B, width)]
  if augment.num_small:
    shapes.append((augment.num_small, B, width))
  keys = jax.random.split(jax.random.key(key), len(shapes))
  return tuple(
    Encoded(jax.random.normal(k, s)) for k, s in zip(keys, shapes, strict=True)
  )


def rows():
  return rows_of(IMAGES, jax.random.key(3), 5)


def assert_near(got, expected, tolerance):
  """Largest difference over the largest value, over all leaves."""
  scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
  assert scale > 0
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def test_parts_have_rows_of_every_device():
  x = jnp.arange(24)
  parts = split(x, 3, 2)
  first, second = np.arange(12), np.arange(12, 24)
  for i, part in enumerate(parts):
    block = slice(4 * i, 4 * i + 4)
    np.testing.assert_array_equal(part, [*first[block], *second[block]])
  np.testing.assert_array_equal(join(parts, 2), x)
  views = jnp.arange(2 * 12 * 5).reshape(2, 12, 5)
  parts = split(views, 3, 4, axis=1)
  assert parts.shape == (3, 2, 4, 5)
  np.testing.assert_array_equal(parts[1], views[:, 1::3])
  np.testing.assert_array_equal(join(parts, 4, axis=1), views)


@pytest.mark.parametrize(
  ("model", "augment"),
  [
    (VIT, LARGE),
    pytest.param(VIT, MULTI, marks=pytest.mark.slow),
    (ROPE, MULTI),
  ],
  ids=["two", "multi_crop", "rope"],
)
def test_chunks_change_nothing(model, augment):
  """What is drawn for each image and view included."""
  _, variables, _ = variables_of(model)
  cotangents = random_cotangents(augment, 16)
  whole, chunked = (
    program(model, augment, chunks)(variables["params"], rows(), cotangents)
    for chunks in (1, CHUNKS)
  )
  assert_near(chunked[0], whole[0], 1e-5)
  assert_near(chunked[1], whole[1], 1e-5)
  still = program(model, augment, 1)(
    variables["params"],
    rows()._replace(model_keys=rows().augment_keys),
    cotangents,
  )
  still, whole = still[0].features, whole[0].features
  assert np.abs(still.pooled[0] - whole.pooled[0]).max() > 1e-3
  # Nothing is drawn for the teacher.
  np.testing.assert_array_equal(
    still.teacher_pooled[0], whole.teacher_pooled[0]
  )


WIDE = dataclasses.replace(VIT, dtype="float64")


def loss_gradient(objective, multi, chunks):
  """Of the whole loss, by the backbone's parameters."""
  augment = MULTI if multi else LARGE
  _, variables, _ = variables_of(WIDE)
  run = program(WIDE, augment, chunks)
  encoded, _ = run(variables["params"], rows(), random_cotangents(augment, 16))
  head_params, state = objective.init(jax.random.key(1), Spec(16))

  def loss(h):
    features = encoded.features._replace(student=h, labels=jnp.arange(B) % 5)
    return objective.loss(
      head_params, state, features, key=jax.random.key(2), step=3
    )[0]

  _, gradients = run(
    variables["params"], rows(), jax.grad(loss)(encoded.features.student)
  )
  return gradients


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow)
    for name, case in BY_NAME.items()
    # Others are in test_token_methods.py.
    if not case.objective.uses_tokens
  ],
)
def test_the_gradient_of_every_loss_is_exact(x64, name):
  """In float64; in float32 rounding of features is amplified by some losses."""
  objective = BY_NAME[name].objective
  if getattr(objective, "queue_size", 0):
    objective = dataclasses.replace(objective, queue_size=2 * B)
  whole, chunked = (
    loss_gradient(objective, objective.multi_crop, chunks)
    for chunks in (1, CHUNKS)
  )
  assert_near(chunked, whole, 1e-10)


RESNET = {"depth": 18, "small_images": True, "width": 4, "mean": (0.5,)}


@pytest.mark.slow
def test_batch_statistics_in_groups_of_a_chunk():
  """The same groups in one go, and chunk by chunk with one group each."""
  grouped = ResNet(**RESNET, std=(0.25,), norm_groups=4)
  single = ResNet(**RESNET, std=(0.25,), norm_groups=1)
  _, variables, _ = variables_of(grouped)
  cotangents = random_cotangents(LARGE, 32)
  whole = program(grouped, LARGE, 1)(variables["params"], rows(), cotangents)
  chunked = program(single, LARGE, 4)(variables["params"], rows(), cotangents)
  assert_near(chunked[1], whole[1], 1e-5)
  assert_near(
    chunked[0].statistics["batch_stats"],
    whole[0].statistics["batch_stats"],
    1e-5,
  )
  before = variables["batch_stats"]["stem_norm"]["mean"]
  assert (
    np.abs(whole[0].statistics["batch_stats"]["stem_norm"]["mean"]).max() > 0
  )
  assert np.abs(before).max() == 0


def test_chunks_on_a_mesh_move_no_rows():
  """The gradient is that of one device, and only it is summed over devices."""
  _, variables, _ = variables_of(VIT)
  cotangents = random_cotangents(LARGE, 16)
  whole = program(VIT, LARGE, 1)(variables["params"], rows(), cotangents)
  mesh = make_mesh(8, 1)
  sharding = batch_sharding(mesh)
  of_views = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, *sharding.spec)
  )
  args = (
    jax.device_put(variables["params"], jax.NamedSharding(mesh, jax.P())),
    jax.device_put(rows(), sharding),
    jax.device_put(cotangents, of_views),
  )
  run = program(VIT, LARGE, 2, 8)
  compiled = run.lower(*args).compile()
  got = compiled(*args)
  assert_near(got[0].features.student, whole[0].features.student, 1e-5)
  assert_near(got[1], whole[1], 1e-5)
  moved = cost.collectives(compiled.as_text(), 8)
  assert set(moved) == {"all-reduce"}


@pytest.mark.slow
def test_activations_are_those_of_a_chunk():
  """As the compiler says it: an eighth, and the features."""
  model = ViT(patch_size_px=2, width=32, depth=3, num_heads=2)
  backbone = model.backbone()
  params = backbone.init(jax.random.key(0), (16, 16, 3))["params"]
  encoder = make_encoder(backbone, LARGE, SIMCLR)
  b = 64
  images = np.zeros((b, 16, 16, 3), np.uint8)

  def gradients(params, rows, chunks):
    encoded, pullback = encode_with_pullback(
      encoder, {"params": params}, (), rows, chunks=chunks
    )
    return pullback(encoded.features.student)

  whole, chunked = (
    cost.working_bytes(
      jax.jit(functools.partial(gradients, chunks=chunks))
      .lower(params, rows_of(images, jax.random.key(0), 0))
      .compile()
    )
    for chunks in (1, 8)
  )
  features = 2 * b * 32 * 4
  assert chunked < whole / 8 + 4 * features


@pytest.mark.parametrize(
  ("model", "image_px", "small_px"),
  [
    (ViT(patch_size_px=4, width=32, depth=2, num_heads=2), 16, 8),
    pytest.param(ResNet(**RESNET, std=(0.25,)), 32, 16, marks=pytest.mark.slow),
  ],
  ids=["vit", "resnet"],
)
def test_small_crops_cost_their_pixels(model, image_px, small_px):
  """By XLA's count of the program, forward and backward, within 10%."""
  backbone = model.backbone()
  variables = jax.eval_shape(
    lambda: backbone.init(jax.random.key(0), (image_px, image_px, 3))
  )
  number, b = 4, 4

  def flops(*sizes_and_views):
    def gradient(variables, images):
      def total(params):
        h, _ = encode(
          backbone,
          {**variables, "params": params},
          images,
          jax.random.split(jax.random.key(0), b),
        )
        return sum(jnp.sum(x.pooled) for x in h)

      return jax.grad(total)(variables["params"])

    images = tuple(
      jax.ShapeDtypeStruct((v, b, size, size, 3), jnp.float32)
      for size, v in sizes_and_views
    )
    return jax.jit(gradient).lower(variables, images).cost_analysis()["flops"]

  large = flops((image_px, 2))
  both = flops((image_px, 2), (small_px, number))
  pixels = number * small_px**2 / (2 * image_px**2)
  assert 0.5 * pixels < both / large - 1 < 1.1 * pixels


@pytest.mark.parametrize("name", ["moco_v3_queue", "dino"])
def test_what_is_remembered_stays_on_the_device(name):
  """Average, queue and centre: the program calls nothing outside of it."""
  objective, backbone = BY_NAME[name].objective, VIT.backbone()
  augment = MULTI if objective.multi_crop else LARGE
  optimizer = build_optimizer(
    Optim("sgd", 0.1), backbone, objective, HeadStrategy(), (16, 16, 3), 10
  )
  state = jax.eval_shape(
    lambda: init_state(0, backbone, objective, optimizer, (16, 16, 3))
  )
  b = 24  # What the queue is a multiple of.
  batch = {
    "image": jax.ShapeDtypeStruct((b, 16, 16, 3), jnp.uint8),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32),
  }
  step = make_train_step(backbone, objective, augment, optimizer)
  text = jax.jit(step).lower(state, batch).as_text()
  assert "stablehlo.dot_general" in text
  for outside in ("callback", "infeed", "outfeed", "stablehlo.send"):
    assert outside not in text
