"""Supervised classification, for fine-tuning (He et al., CVPR 2022).

State: none. Stop-gradient: none. A linear classifier on the pooled feature,
cross-entropy with label smoothing (Szegedy et al., 2016), mixup and cutmix of
the augmentation. As in MAE's fine-tuning, the classifier starts from a
truncated normal of scale 2e-5; DeiT starts from 0.02. In both papers: smoothing
0.1, mixup 0.8, cutmix 1.0, erasing 0.25, AdamW with decay 0.05, batch 1024.

Paper: arXiv:2111.06377
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.rows import upcast
from jssl.models.tokens import Spec
from jssl.objectives.base import Aux, Features, Objective
from jssl.typing import Decay, Key, Labels, Positive, Scalar

_INIT_SCALE = 2e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Objective):
  """Classification; `objective.name="supervised"` in a config.

  The data set defines the number of classes. Images without a label carry no
  loss.

  Attributes:
    label_smoothing: share of the target that all classes have equally.
    num_views: number of views, each classified on its own (DeiT: 3).
  """

  label_smoothing: Decay = 0.1
  num_views: Positive[int] = 1
  uses_labels = True
  mixes_labels = True
  heads = ("classifier",)

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns the classifier [d, classes]; no state."""
    if not spec.num_classes:
      raise ValueError(
        "Supervised (objective.name) needs a data set with labels (data.name); "
        "received Spec.num_classes=0"
      )
    shape = (spec.feature_dim, spec.num_classes)
    kernel = jax.nn.initializers.truncated_normal(_INIT_SCALE)(key, shape)
    return {"classifier": {"kernel": kernel, "bias": jnp.zeros(shape[1])}}, {}

  def outputs(
    self, head_params: dict, state: dict, h: Float[Array, "*n d"]
  ) -> dict[str, Float[Array, "*n k"]]:
    """Returns logits."""
    layer = head_params["classifier"]
    bias = layer["bias"].reshape(*[1] * (h.ndim - 1), -1)
    return {"classifier": h @ layer["kernel"] + bias}

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Mean cross-entropy over labels, each with its weight."""
    (h,), labels = features.pooled, features.labels
    if labels is None:
      raise ValueError(
        'objective.name="supervised" needs a data set with labels'
      )
    logits = upcast(self.outputs(head_params, state, h)["classifier"])
    ones = jnp.ones(logits.shape[:2], logits.dtype)
    own, partners = features.own_weight, features.partner_labels
    terms = [(labels, ones if own is None else own)]
    if own is not None and partners is not None:
      terms.append((partners, 1 - own))
    total = count = jnp.zeros((), logits.dtype)
    for of_term, share in terms:
      weights = jnp.where(of_term >= 0, share, 0)
      total += jnp.sum(weights * self._cross_entropies(logits, of_term))
      count += jnp.sum(weights)
    right = jnp.argmax(logits, axis=-1) == labels[None]
    labelled = ones * (labels >= 0)[None]
    accuracy = jnp.sum(right * labelled) / jnp.maximum(labelled.sum(), 1)
    loss = total / jnp.where(count > 0, count, 1)
    return loss, Aux({"accuracy": accuracy}, state)

  def _cross_entropies(
    self, logits: Float[Array, "v b k"], labels: Labels
  ) -> Float[Array, "v b"]:
    """Returns cross-entropies with smoothed targets; any if unlabelled."""
    log_p = jax.nn.log_softmax(logits)
    index = jnp.maximum(labels, 0)[None, :, None]
    of_label = jnp.take_along_axis(log_p, index, axis=-1)[..., 0]
    s = self.label_smoothing
    return -(1 - s) * of_label - s * log_p.mean(axis=-1)
