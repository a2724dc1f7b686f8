"""The example method of docs/objectives.md computes its loss."""

import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

import jssl
from jssl.models.heads import Head
from jssl.models.tokens import Encoded, Spec
from jssl.objectives.base import Features

PAGE = pathlib.Path(jssl.__file__).parents[1] / "docs" / "objectives.md"


def test_example_method():
  blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
  (text,) = (block for block in blocks if "class AlignUniform" in block)
  # Dataclasses look up their module.
  module = types.ModuleType("align_uniform")
  sys.modules[module.__name__] = module
  exec(text, vars(module))

  objective = module.AlignUniform(uniformity_weight=0.5, projector=Head())
  params, state = objective.init(jax.random.key(0), Spec(4))
  h = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
  loss, aux = objective.loss(
    params,
    state,
    Features((Encoded(jnp.asarray(h)),)),
    key=jax.random.key(0),
    step=0,
  )

  z = h / np.linalg.norm(h, axis=-1, keepdims=True)
  alignment = np.mean(np.sum((z[0] - z[1]) ** 2, axis=1))
  gaps = np.sum((z[:, :, None] - z[:, None]) ** 2, axis=-1)
  others = ~np.eye(6, dtype=bool)
  potentials = [np.log(np.mean(np.exp(-2 * gap[others]))) for gap in gaps]
  np.testing.assert_allclose(
    loss, alignment + 0.5 * np.mean(potentials), rtol=1e-5
  )
  assert aux.metrics.keys() == {"alignment", "uniformity"}
