"""Methods on pooled features do not pay for patch tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.cases import BY_NAME, QUICK

from jssl.augment import Augment, views
from jssl.config.build import build_optimizer
from jssl.models import ViT
from jssl.models.tokens import Encoded
from jssl.objectives.encode import make_encoder, rows_of
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.train.state import init_state
from jssl.train.step import make_train_step

MODEL = ViT(
  patch_size_px=4, width=16, depth=2, num_heads=2, pooling="cls", drop_path=0.2
)
ROWS = rows_of(np.zeros((4, 16, 16, 3), np.uint8), jax.random.key(0), 0)


def pooled_only(backbone, augment, variables, teacher, rows, num_views):
  """Pooled features of student and teacher, without masks and tokens."""
  features, first = [], 0
  crops = views(augment, rows.augment_keys, rows.images, num_views)
  for i, x in enumerate(crops):
    v, b = x.shape[:2]
    flat = x.swapaxes(0, 1).reshape(b * v, *x.shape[2:])
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    keys = fold(rows.model_keys, jnp.arange(first, first + v)).reshape(-1)
    first += v
    sides = [(variables, keys)] if i else [(teacher, None), (variables, keys)]
    for side, own in sides:
      if side:
        h = backbone.apply(side, flat, train=True, keys=own)[0].pooled
        features.append(h.reshape(b, v, -1).swapaxes(0, 1))
  return features


@pytest.mark.parametrize("name", ["simclr", "dino"])
def test_pooled_methods_compile_to_the_program_without_tokens(name):
  objective = BY_NAME[name].objective
  small = {"num_small": 2, "small_crop_size_px": 8} if name == "dino" else {}
  augment = Augment(16, 0.3, 0.5, small_blur_probability=0.0, **small)
  backbone = MODEL.backbone()
  variables = jax.eval_shape(
    lambda: backbone.init(jax.random.key(0), (16, 16, 3))
  )
  teacher = variables if name == "dino" else {}

  def by_hand(variables, teacher, rows):
    return pooled_only(
      backbone, augment, variables, teacher, rows, objective.num_views
    )

  def encoded(objective, variables, teacher, rows):
    encoder = make_encoder(backbone, augment, objective)
    return encoder(variables, (teacher,) if teacher else (), rows).features

  features = jax.eval_shape(
    functools.partial(encoded, objective), variables, teacher, ROWS
  )
  for output in (*features.student, *features.teacher):
    assert (output.tokens, output.blocks) == (None, None)
  assert (features.mask, features.pixels) == (None, None)

  def cost(function):
    def loss(variables, teacher):
      leaves = jax.tree.leaves(function(variables, teacher, ROWS))
      return sum(jnp.sin(x).sum() for x in leaves)

    program = jax.jit(jax.grad(loss)).lower(variables, teacher).compile()
    analysis = program.cost_analysis()
    return analysis["flops"], analysis["bytes accessed"]

  own = cost(functools.partial(encoded, objective))
  assert own == cost(by_hand)

  class WithTokens(type(objective)):
    uses_tokens = True

  fields = dataclasses.fields(objective)
  values = {f.name: getattr(objective, f.name) for f in fields}
  with_tokens = cost(functools.partial(encoded, WithTokens(**values)))
  assert own[0] < with_tokens[0]
  assert own[1] < with_tokens[1]


def cost_of_step(backbone, objective, chunks):
  """Returns FLOPs and bytes of a compiled train step."""
  shape, head = (16, 16, 3), HeadStrategy()
  optimizer = build_optimizer(
    Optim(name="sgd", learning_rate=0.1), backbone, objective, head, shape, 10
  )
  step = make_train_step(
    backbone, objective, Augment(16, 0.3), optimizer, chunks=chunks
  )
  state = jax.eval_shape(
    lambda: init_state(0, backbone, objective, optimizer, shape, head)
  )
  batch = {"image": ROWS.images, "label": np.zeros(4, np.int32)}
  compiled = jax.jit(step).lower(state, batch).compile(compiler_options=QUICK)
  analysis = compiled.cost_analysis()
  return analysis["flops"], analysis["bytes accessed"]


@pytest.mark.parametrize(
  ("name", "chunks"),
  [("simclr", 1), pytest.param("byol", 2, marks=pytest.mark.slow)],
)
def test_the_step_of_a_pooled_method_has_no_tokens(name, chunks):
  """As many FLOPs and bytes as with an encoder that cannot return them."""
  objective = BY_NAME[name].objective
  backbone = dataclasses.replace(MODEL, depth=1).backbone()

  def pooled(*arguments, **options):
    encoded, variables = backbone.apply(*arguments, **options)
    return Encoded(encoded.pooled), variables

  # What the comparison would see: the loss has no use for these.
  with_tokens = functools.partial(backbone.apply, tokens=True)
  own, without, more = (
    cost_of_step(backbone._replace(apply=apply), objective, chunks)
    for apply in (backbone.apply, pooled, with_tokens)
  )
  assert own == without
  assert own[0] < more[0]
  assert own[1] < more[1]
