"""Float64 NumPy oracles of all methods, from the sums in the papers.

Stop-gradient parts are evaluated at a separate point `held`, so that finite
differences of an oracle give the gradient of the method.
"""

import itertools
import math

import jax
import numpy as np
from oracles import losses as oracles
from oracles import patches

from jssl import rng


def head(spec, params, x, stats=None, running=None):
  """Applies a head layer by layer, with batch or `running` statistics.

  `stats` collects the mean and variance of each norm.
  """
  x, norms = np.asarray(x, np.float64), 0

  def dense(i, x):
    layer = params[f"Dense_{i}"]
    return x @ np.asarray(layer["kernel"], np.float64) + layer.get("bias", 0)

  def norm(i, x):
    rows = x.reshape(-1, x.shape[-1])
    mean = sum(rows) / len(rows)
    variance = sum((row - mean) ** 2 for row in rows) / len(rows)
    if running is not None:
      mean, variance = (running[f"BatchNorm_{i}"][k] for k in ("mean", "var"))
    if stats is not None:
      stats[f"BatchNorm_{i}"] = {"mean": mean, "var": variance}
    layer = params.get(f"BatchNorm_{i}", {})
    y = (x - mean) / np.sqrt(variance + 1e-5)
    return y * layer.get("scale", 1) + layer.get("bias", 0)

  for i in range(len(spec.hidden_dims)):
    x = dense(i, x)
    if spec.norm:
      x, norms = norm(norms, x), norms + 1
    if spec.activation == "relu":
      x = np.maximum(x, 0)
    elif spec.activation == "gelu":
      # The tanh form, as in JAX.
      x = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
  if spec.out_dim:
    x = dense(len(spec.hidden_dims), x)
  return x if spec.last_norm == "none" else norm(norms, x)


def unit(z):
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def pooled(features):
  """Returns the pooled features of each resolution."""
  return [getattr(h, "pooled", h) for h in features]


def views(features):
  """Returns the pooled features of all views."""
  return np.concatenate(pooled(features))


def project(objective, at):
  return head(
    objective.projector,
    at.params["projector"],
    np.concatenate(pooled(at.student)),
  )


def predict(objective, at):
  z = project(objective, at)
  return head(objective.predictor, at.params["predictor"], z)


def targets(objective, at):
  teacher = at.state["teacher"]["projector"]
  return head(objective.projector, teacher, pooled(at.teacher)[0])


def simclr(objective, at, held):
  return oracles.nt_xent(*project(objective, at), objective.temperature)


def dcl(objective, at, held):
  return oracles.dcl(*project(objective, at), objective.temperature)


def supcon(objective, at, held):
  """Stacked: the order of rows doesn't count, whose labels they have does."""
  z1, z2 = project(objective, at)
  labels = [*at.labels, *at.labels]
  return oracles.supervised_contrastive(
    np.concatenate([z1, z2]), labels, objective.temperature
  )


def supervised(objective, at, held):
  """Cross-entropy of every view with its own label and that of its partner."""
  layer, (h,) = at.params["classifier"], at.student
  s, total, count = objective.label_smoothing, 0.0, 0.0
  for v, i in np.ndindex(h.shape[:2]):
    logits = h[v, i] @ layer["kernel"] + layer["bias"]
    p = np.exp(logits) / np.exp(logits).sum()
    w = 1.0 if at.own_weight is None else at.own_weight[v, i]
    for label, weight in ((at.labels[i], w), (at.labels[-1 - i], 1 - w)):
      if label >= 0:
        target = np.full(len(p), s / len(p))
        target[label] += 1 - s
        total -= weight * (target @ np.log(p))
        count += weight
  return total / max(count, 1e-300)


def spectral(objective, at, held):
  z = project(objective, at)
  for view in z:
    for row in view:
      if row @ row > objective.squared_radius:
        row *= math.sqrt(objective.squared_radius / (row @ row))
  return oracles.spectral_contrastive(*z) / objective.squared_radius


def barlow_twins(objective, at, held):
  z = project(objective, at)
  loss = oracles.barlow_twins(*z, objective.off_diagonal_weight)
  return objective.scale * loss


def vicreg(objective, at, held):
  return oracles.vicreg(
    *project(objective, at),
    objective.invariance_weight,
    objective.variance_weight,
    objective.covariance_weight,
  )


def w_mse(objective, at, held):
  return oracles.w_mse(*project(objective, at), objective.eps)


def moco_v3(objective, at, held):
  q1, q2 = predict(objective, at)
  k1, k2 = targets(objective, held)
  negatives = held.state["queue"].rows if objective.queue_size else None
  t = objective.temperature
  one = oracles.info_nce(q1, k2, t, negatives)
  return 2 * t * (one + oracles.info_nce(q2, k1, t, negatives))


def byol(objective, at, held):
  return oracles.byol(*predict(objective, at), *targets(objective, held))


def simsiam(objective, at, held):
  z = project(objective, held if objective.stop_gradient else at)
  return oracles.simsiam(*predict(objective, at), *z)


def nnclr(objective, at, held):
  p1, p2 = predict(objective, at)
  bank = held.state["queue"].rows

  def nearest(z):
    distance = [[np.linalg.norm(x - row) for row in bank] for x in unit(z)]
    return bank[np.argmin(distance, axis=1)]

  near1, near2 = (nearest(z) for z in project(objective, held))
  t = objective.temperature
  one = oracles.info_nce(near1, p2, t, symmetric=True)
  return (one + oracles.info_nce(near2, p1, t, symmetric=True)) / 2


def swav(objective, at, held):
  w, t = at.params["prototypes"], objective.temperature
  z = unit(project(objective, at))
  large = unit(project(objective, held))[: objective.num_views]
  losses = []
  for a in range(len(large)):
    q = oracles.sinkhorn(
      large[a] @ held.params["prototypes"].T,
      objective.epsilon,
      objective.iterations,
    )
    for c in range(len(z)):
      if c != a:
        s = z[c] @ w.T / t
        log_p = s - np.log(np.exp(s).sum(1, keepdims=True))
        losses.append(-np.mean(np.sum(q * log_p, axis=1)))
  return np.mean(losses)


def teacher_temperature(objective, at):
  start, end = (
    objective.teacher_temperature_start,
    objective.teacher_temperature,
  )
  warmup = objective.temperature_warmup_steps
  fraction = min(at.step / warmup, 1) if warmup else 1
  return start + fraction * (end - start)


def dino(objective, at, held, center=None):
  return oracles.dino(
    unit(project(objective, at)),
    unit(targets(objective, held)),
    unit(at.params["prototypes"]),
    unit(held.state["teacher"]["prototypes"]),
    held.state["center"] if center is None else center,
    objective.student_temperature,
    teacher_temperature(objective, at),
  )


def patch_logits(objective, params, tokens):
  """Logits of the head for patches, shared or not."""
  name = "projector" if objective.shared_head else "patch_projector"
  w = params["prototypes" if objective.shared_head else "patch_prototypes"]
  return unit(head(getattr(objective, name), params[name], tokens)) @ unit(w).T


def patch_loss(objective, at, held, center):
  """The loss of hidden patches, averaged over the large crops."""
  averaged = held.state["teacher"]
  return np.mean(
    [
      patches.ibot_patch(
        patch_logits(objective, at.params, student),
        patch_logits(objective, averaged, teacher),
        center,
        hidden,
        objective.student_temperature,
        teacher_temperature(objective, at),
      )
      for student, teacher, hidden in zip(
        at.student[0].tokens,
        held.teacher[0].tokens,
        at.mask.hidden,
        strict=True,
      )
    ]
  )


def ibot(objective, at, held):
  patch = patch_loss(objective, at, held, held.state["patch_center"])
  return dino(objective, at, held) + objective.patch_weight * patch


def dinov2(objective, at, held):
  center, patch_center = held.state["center"], held.state["patch_center"]
  if objective.centering == "sinkhorn":
    temperature, averaged = (
      teacher_temperature(objective, at),
      held.state["teacher"],
    )
    cls = unit(targets(objective, held)) @ unit(averaged["prototypes"]).T
    logits = patch_logits(objective, averaged, held.teacher[0].tokens)
    center = patches.sinkhorn_center(
      cls.reshape(-1, cls.shape[-1]), temperature
    )
    patch_center = patches.sinkhorn_center(
      logits.reshape(-1, logits.shape[-1]),
      temperature,
      used=at.mask.hidden.reshape(-1),
    )
  gram = 0
  if objective.gram_weight and at.step >= objective.gram_start_step:
    gram = np.mean(
      [
        patches.gram_loss(student, anchor)
        for student, anchor in zip(
          at.student[0].tokens, held.teacher[1].tokens, strict=True
        )
      ]
    )
  koleo = sum(oracles.koleo(h) for h in at.student[0].pooled)
  return (
    dino(objective, at, held, center)
    + objective.patch_weight * patch_loss(objective, at, held, patch_center)
    + objective.koleo_weight * koleo
    + objective.gram_weight * gram
  )


def lejepa(objective, at, held):
  z = project(objective, at)
  centre = sum(z[: objective.num_views]) / objective.num_views
  invariance = np.mean([(view - centre) ** 2 for view in z])
  shape = z.shape[-1], objective.num_slices
  draw = jax.jit(
    lambda key: jax.random.normal(rng.stream(key, "slices"), shape),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  with jax.enable_x64(True):
    slices = draw(at.key)
  slices = unit(np.asarray(slices).T).T
  gaussian = np.mean([oracles.sigreg(view, slices) for view in z])
  weight = objective.sigreg_weight
  return weight * gaussian + (1 - weight) * invariance


def _rows(objective, at):
  """All views of the batch through the map, and which image each is of."""
  (h,) = at.student
  ids = at.labels if objective.uses_labels else range(h.shape[1])
  return h.reshape(-1, h.shape[-1]) @ at.params["map"], [*ids] * len(h)


def kernel_contrastive(objective, at, held):
  z, ids = _rows(objective, at)
  total = 0.0
  for i, j in itertools.product(range(len(z)), repeat=2):
    total += (z[i] @ z[j] - (ids[i] == ids[j])) ** 2
  return total


def kernel_non_contrastive(objective, at, held):
  """The invariance as a sum over edges of the graph, each seen once."""
  z, ids = _rows(objective, at)
  centred = z - z.mean(0)
  total = np.sum((centred.T @ centred - np.eye(z.shape[1])) ** 2)
  for i, j in itertools.combinations(range(len(z)), 2):
    if ids[i] == ids[j]:
      total += objective.beta * np.sum((z[i] - z[j]) ** 2)
  return total


def cissl(objective, at, held):
  """Rows i and i + b are one image."""
  (h,) = at.student
  u1, u2 = head(objective.student, at.params["student"], h)
  v1, v2 = head(objective.teacher, at.params["teacher"], h)
  return oracles.cissl(
    np.concatenate([u1, u2]), np.concatenate([v1, v2]), objective.temperature
  )


def dissl(objective, at, held):
  return oracles.dissl(
    head(
      objective.student,
      at.params["student"],
      np.concatenate(pooled(at.student)),
    ),
    head(objective.teacher, at.params["teacher"], at.student[0]),
    at.params["student_prototypes"],
    at.params["teacher_prototypes"],
    objective.student_temperature,
    objective.teacher_temperature,
    objective.marginal_weight,
    objective.invariance_weight,
  )


def mae(objective, at, held):
  """MAE of every view, by the decoder and the loss of the papers."""
  decoder, losses = at.params["decoder"], []
  grid = at.pixels.shape[2] // 2, at.pixels.shape[3] // 2
  (student,) = at.student
  for view, pixels in enumerate(at.pixels):
    hidden = at.mask.targets[view, :, 0]
    predictions = [
      patches.decode(
        decoder,
        student.tokens[view, image],
        at.mask.visible[view, image],
        hidden[image],
        grid,
        objective.decoder.num_heads,
        prefix=student.pooled[view, image],
        approximate=True,
      )
      for image in range(len(hidden))
    ]
    losses.append(
      patches.mae_loss(
        pixels, 2, hidden, predictions, objective.normalize_patches
      )
    )
  return np.mean(losses)


def simmim(objective, at, held):
  (student,), (hidden,), (pixels,) = at.student, at.mask.hidden, at.pixels
  linear = at.params["linear"]
  return patches.simmim_loss(
    pixels, 2, hidden, student.tokens[0], linear["kernel"], linear["bias"]
  )


def ijepa(objective, at, held):
  """I-JEPA, with the teacher and masks of the held point."""
  (student,), (teacher,), mask = at.student, held.teacher, at.mask
  b, m, _ = mask.targets.shape[1:]
  predictions = [
    [
      patches.decode(
        at.params["predictor"],
        student.tokens[0, image],
        mask.visible[0, image],
        mask.targets[0, image, block],
        (2, 3),
        objective.predictor.num_heads,
        valid=mask.valid[0, image],
        targets_valid=mask.targets_valid[0, image, block],
        approximate=True,
      )
      for block in range(m)
    ]
    for image in range(b)
  ]
  return patches.ijepa_loss(
    teacher.tokens[0], mask.targets[0], mask.targets_valid[0], predictions
  )
