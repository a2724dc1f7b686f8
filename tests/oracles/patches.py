"""Masked-image and patch-level methods as the papers' rules, in float64 loops.

Parameters are nested dicts with Flax's names and layouts: kernels are [in,
out]. Patches are numbered in raster order: row by row, left to right.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import erf, logsumexp


def _f64(x: Any) -> np.ndarray:
  return np.asarray(x, np.float64)


def _flags(flags: Any, count: int) -> np.ndarray:
  """[count] booleans; None means that all are True."""
  if flags is None:
    return np.ones(count, bool)
  flags = np.asarray(flags, bool)
  assert flags.shape == (count,)
  return flags


def _dense(x: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
  """[n, in] -> [n, out], rows x_i kernel + bias."""
  kernel, bias = _f64(params["kernel"]), _f64(params["bias"])
  return np.array([row @ kernel + bias for row in x])


def _unit(x: np.ndarray) -> list[np.ndarray]:
  """Rows x_i / max(||x_i||, 1e-12); a zero row stays zero."""
  return [row / max(float(np.linalg.norm(row)), 1e-12) for row in _f64(x)]


def _distillation(
  student: np.ndarray,
  teacher: np.ndarray,
  center: np.ndarray,
  student_temperature: float,
  teacher_temperature: float,
) -> float:
  """-sum_k softmax((t - c) / T_t)_k log softmax(s / T_s)_k."""
  t = (_f64(teacher) - _f64(center)) / teacher_temperature
  s = _f64(student) / student_temperature
  log_t, log_s = t - logsumexp(t), s - logsumexp(s)
  total = 0.0
  for k in range(len(s)):
    total -= math.exp(log_t[k]) * float(log_s[k])
  return total


def patchify(image: np.ndarray, size: int) -> np.ndarray:
  """[h, w, c] -> [n, size² c]; in a patch: row, column, channel (fastest)."""
  image = _f64(image)
  h, w, c = image.shape
  assert h % size == 0
  assert w % size == 0
  result = []
  for top in range(0, h, size):
    for left in range(0, w, size):
      values = []
      for i in range(size):
        for j in range(size):
          for channel in range(c):
            values.append(image[top + i, left + j, channel])
      result.append(values)
  return np.array(result)


def layer_norm(
  x: np.ndarray,
  scale: np.ndarray | float,
  bias: np.ndarray | float,
  eps: float,
) -> np.ndarray:
  """Rows (x_i - mean) / sqrt(var + eps) scale + bias, with biased variance."""
  x, scale, bias = _f64(x), _f64(scale), _f64(bias)
  result = np.empty_like(x)
  for i, row in enumerate(x):
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    result[i] = (row - mean) / math.sqrt(variance + eps) * scale + bias
  return result


def gelu(x: np.ndarray, approximate: bool) -> np.ndarray:
  """x Phi(x), Phi from erf, or its tanh approximation if `approximate`."""
  x = _f64(x)
  if approximate:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x * (1 + np.tanh(inner)) / 2
  return x * (1 + erf(x / math.sqrt(2))) / 2


def block(
  x: np.ndarray,
  params: Mapping[str, Any],
  num_heads: int,
  *,
  approximate: bool,
  eps: float = 1e-6,
  valid: np.ndarray | None = None,
  angles: np.ndarray | None = None,
  swiglu: bool = False,
) -> np.ndarray:
  """Pre-norm transformer block of one image: x + MSA(LN x), x + MLP(LN x).

  Args:
    x: [n, d] tokens.
    params: attention_norm, qkv, attention_out, mlp_norm, mlp_in, mlp_out. The
      columns of qkv are q | k | v, each of them head by head.
    num_heads: number of attention heads.
    approximate: True if the GELU is the tanh approximation.
    eps: epsilon of both layer norms.
    valid: [n] booleans. No token attends to an invalid token. An invalid token
      attends to the valid tokens. Defaults to all valid.
    angles: [n, d / num_heads / 2] angles of RoPE. Dimensions i and i + d /
      num_heads / 2 of the queries and keys of each head are rotated together.
    swiglu: True if the MLP is w3(silu(w1 x) * w2 x). The columns of mlp_in are
      w1 | w2, and mlp_out is w3.

  Returns:
    The tokens [n, d].
  """
  x = _f64(x)
  n, d = x.shape
  assert d % num_heads == 0
  head_dim = d // num_heads
  keys = np.flatnonzero(_flags(valid, n))

  norm = params["attention_norm"]
  qkv = _dense(layer_norm(x, norm["scale"], norm["bias"], eps), params["qkv"])
  q, k, v = qkv[:, :d], qkv[:, d : 2 * d], qkv[:, 2 * d :]
  if angles is not None:
    q, k = (_rotated(z, angles, num_heads) for z in (q, k))
  mixed = np.zeros((n, d))
  for head in range(num_heads):
    part = slice(head * head_dim, (head + 1) * head_dim)
    for i in range(n):
      logits = _f64(
        [float(q[i, part] @ k[j, part]) / math.sqrt(head_dim) for j in keys]
      )
      weights = np.exp(logits - logsumexp(logits))
      for weight, j in zip(weights, keys, strict=True):
        mixed[i, part] += weight * v[j, part]
  x = x + _dense(mixed, params["attention_out"])

  norm = params["mlp_norm"]
  y = _dense(layer_norm(x, norm["scale"], norm["bias"], eps), params["mlp_in"])
  if swiglu:
    gate, value = np.split(y, 2, axis=1)
    return x + _dense(gate / (1 + np.exp(-gate)) * value, params["mlp_out"])
  return x + _dense(gelu(y, approximate), params["mlp_out"])


def _rotated(x: np.ndarray, angles: np.ndarray, num_heads: int) -> np.ndarray:
  """Multiplies x_i + j x_(i + e/2) of each head of width e by e^(j angle)."""
  result = []
  for head in np.split(x, num_heads, axis=1):
    real, imaginary = np.split(head, 2, axis=1)
    turned = (real + 1j * imaginary) * np.exp(1j * _f64(angles))
    result += [turned.real, turned.imag]
  return np.concatenate(result, axis=1)


def rope_angles(rows: int, columns: int, head_dim: int) -> np.ndarray:
  """DINOv3's angles [rows * columns, head_dim / 2].

  2 pi y / p_i, then 2 pi x / p_i, with periods p_i = 100^(2 i / (head_dim / 2))
  and y = 2 (row + 1/2) / rows - 1; x likewise.
  """
  periods = [100 ** (2 * i / (head_dim / 2)) for i in range(head_dim // 4)]
  result = []
  for row in range(rows):
    for column in range(columns):
      y = 2 * (row + 0.5) / rows - 1
      x = 2 * (column + 0.5) / columns - 1
      result.append([2 * math.pi * c / p for c in (y, x) for p in periods])
  return np.array(result)


def sincos(rows: int, columns: int, width: int) -> np.ndarray:
  """MAE's fixed positions [rows * columns, width].

  A quarter of the dimensions each for sin(column f), cos(column f), sin(row f),
  cos(row f), at frequencies f_i = 10000^(-i / (width / 4)).
  """
  assert width % 4 == 0
  quarter = width // 4
  frequencies = [10000.0 ** (-i / quarter) for i in range(quarter)]
  result = []
  for row in range(rows):
    for column in range(columns):
      values = []
      for coordinate in (column, row):
        values += [math.sin(coordinate * f) for f in frequencies]
        values += [math.cos(coordinate * f) for f in frequencies]
      result.append(values)
  return np.array(result)


def decode(
  params: Mapping[str, Any],
  tokens: np.ndarray,
  visible: np.ndarray,
  targets: np.ndarray,
  grid: tuple[int, int],
  num_heads: int,
  *,
  prefix: np.ndarray | None = None,
  valid: np.ndarray | None = None,
  targets_valid: np.ndarray | None = None,
  approximate: bool,
) -> np.ndarray:
  """MAE decoder of one image, or I-JEPA predictor of one target block.

  Args:
    params: embed, mask_token [d], block_0, block_1, ..., norm, out.
    tokens: [k, w] encoder outputs of the visible patches.
    visible: [k] patch indices of `tokens`.
    targets: [t] patch indices to predict.
    grid: rows and columns of the patch grid.
    num_heads: number of attention heads.
    prefix: [w] or [p, w] encoder outputs without position, such as the class
      token. These tokens are embedded like `tokens` and always valid.
    valid: [k] booleans, False for padding. Defaults to all valid.
    targets_valid: [t] booleans, False for padding. Defaults to all valid.
    approximate: True if the GELU is the tanh approximation.

  Returns:
    The predictions [t, out]. Those of invalid targets have no meaning. Indices
    of padding must still be in range.
  """
  mask_token = _f64(params["mask_token"])
  positions = sincos(*grid, len(mask_token))

  sequence, flags = [], []
  if prefix is not None:
    for token in _dense(np.atleast_2d(_f64(prefix)), params["embed"]):
      sequence.append(token)
      flags.append(True)
  embedded = _dense(_f64(tokens), params["embed"])
  for token, patch, flag in zip(
    embedded, visible, _flags(valid, len(visible)), strict=True
  ):
    sequence.append(token + positions[patch])
    flags.append(flag)
  for patch, flag in zip(
    targets, _flags(targets_valid, len(targets)), strict=True
  ):
    sequence.append(mask_token + positions[patch])
    flags.append(flag)

  x, depth = np.array(sequence), 0
  while f"block_{depth}" in params:
    x = block(
      x,
      params[f"block_{depth}"],
      num_heads,
      approximate=approximate,
      valid=np.array(flags),
    )
    depth += 1
  x = layer_norm(x, params["norm"]["scale"], params["norm"]["bias"], 1e-6)
  return _dense(x[len(x) - len(targets) :], params["out"])


def mae_loss(
  pixels: np.ndarray,
  size: int,
  hidden: np.ndarray,
  predictions: np.ndarray,
  normalize: bool,
) -> float:
  """Mean over the hidden patches of 1/p sum_j (y_j - t_j)².

  The targets t are the patch's pixels, or (x - mean) / sqrt(var + 1e-6) over
  its p values with unbiased variance.

  Args:
    pixels: [b, h, w, c] images.
    size: patch size in pixels.
    hidden: [b, m] patch indices.
    predictions: [b, m, p], p = size² c, for the patches in `hidden`.
    normalize: True if targets are normalized per patch.
  """
  predictions = _f64(predictions)
  b, m, p = predictions.shape
  total = 0.0
  for image in range(b):
    patches = patchify(pixels[image], size)
    for i in range(m):
      target = patches[hidden[image][i]]
      if normalize:
        mean = sum(target) / p
        variance = sum((value - mean) ** 2 for value in target) / (p - 1)
        target = (target - mean) / math.sqrt(variance + 1e-6)
      error = 0.0
      for j in range(p):
        error += float(predictions[image, i, j] - target[j]) ** 2 / p
      total += error
  return total / (b * m)


def simmim_loss(
  pixels: np.ndarray,
  size: int,
  hidden: np.ndarray,
  tokens: np.ndarray,
  kernel: np.ndarray,
  bias: np.ndarray,
) -> float:
  """Mean of |x - y| over hidden pixels and channels of the whole batch.

  The head's output for channel c of pixel (i, j) of a patch is entry c size² +
  i size + j: channel slowest, as in pixel shuffle. The official code adds 1e-5
  to the number of hidden pixels; this function does not.

  Args:
    pixels: [b, h, w, c] images.
    size: patch size in pixels.
    hidden: [b, n] booleans, True for hidden patches.
    tokens: [b, n, w] encoder outputs of all patches.
    kernel: [w, size² c] weights of the head.
    bias: [size² c] bias of the head.
  """
  pixels, tokens = _f64(pixels), _f64(tokens)
  b, h, w, channels = pixels.shape
  columns = w // size
  total, count = 0.0, 0
  for image in range(b):
    outputs = _dense(tokens[image], {"kernel": kernel, "bias": bias})
    for y in range(h):
      for x in range(w):
        patch = (y // size) * columns + x // size
        if not hidden[image][patch]:
          continue
        for c in range(channels):
          entry = c * size * size + (y % size) * size + x % size
          total += abs(float(pixels[image, y, x, c] - outputs[patch, entry]))
          count += 1
  return total / count


def ijepa_loss(
  teacher_tokens: np.ndarray,
  targets: np.ndarray,
  targets_valid: np.ndarray,
  predictions: np.ndarray,
) -> float:
  """Smooth L1 (beta 1) to the teacher's tokens, layer-normed without affine.

  Mean over dimensions and valid target tokens of an image, of all its blocks
  together, then over images. Each image needs a valid target token.

  Args:
    teacher_tokens: [b, n, w] outputs of the target encoder.
    targets: [b, m, t] patch indices of m blocks.
    targets_valid: [b, m, t] booleans, False for padding.
    predictions: [b, m, t, w].
  """
  predictions = _f64(predictions)
  b, m, t, w = predictions.shape
  loss = 0.0
  for image in range(b):
    tokens = layer_norm(teacher_tokens[image], 1.0, 0.0, 1e-5)
    total, count = 0.0, 0
    for i in range(m):
      for j in range(t):
        if not targets_valid[image][i][j]:
          continue
        target = tokens[targets[image][i][j]]
        for k in range(w):
          error = abs(float(predictions[image, i, j, k] - target[k]))
          total += error**2 / 2 if error < 1 else error - 0.5
          count += 1
    loss += total / count / b
  return loss


def dino_cls(
  student: np.ndarray,
  teacher: np.ndarray,
  center: np.ndarray,
  student_temperature: float,
  teacher_temperature: float,
) -> float:
  """mean_(a!=c) 1/b sum_i CE(softmax((t_ai - m) / T_t), softmax(s_ci / T_s)).

  Args:
    student: [v, b, k] logits; its first u views are those of the teacher.
    teacher: [u, b, k] logits.
    center: [k], subtracted from the teacher's logits.
    student_temperature: T_s.
    teacher_temperature: T_t.
  """
  views, b, _ = np.shape(student)
  total, pairs = 0.0, 0
  for a in range(len(teacher)):
    for c in range(views):
      if a == c:
        continue
      for i in range(b):
        ce = _distillation(
          student[c][i],
          teacher[a][i],
          center,
          student_temperature,
          teacher_temperature,
        )
        total += ce / b
      pairs += 1
  return total / pairs


def ibot_patch(
  student: np.ndarray,
  teacher: np.ndarray,
  center: np.ndarray,
  hidden: np.ndarray,
  student_temperature: float,
  teacher_temperature: float,
) -> float:
  """1/b sum_i [sum_j m_ij CE_ij / max(sum_j m_ij, 1)], 0 without hidden tokens.

  Args:
    student: [b, n, k] logits of the masked images' patch tokens.
    teacher: [b, n, k] logits of the same views without masks.
    center: [k], subtracted from the teacher's logits.
    hidden: [b, n] booleans m, True for tokens hidden from the student.
    student_temperature: T_s.
    teacher_temperature: T_t.
  """
  b, n, _ = np.shape(student)
  loss = 0.0
  for i in range(b):
    total, count = 0.0, 0
    for j in range(n):
      if not hidden[i][j]:
        continue
      total += _distillation(
        student[i][j],
        teacher[i][j],
        center,
        student_temperature,
        teacher_temperature,
      )
      count += 1
    loss += total / max(count, 1) / b
  return loss


def sinkhorn(
  logits: np.ndarray,
  temperature: float,
  iterations: int = 3,
  used: np.ndarray | None = None,
) -> np.ndarray:
  """b Q; Q = e^(logits/T), then in turns columns sum to 1/k, rows to 1/b.

  Args:
    logits: [r, k], a row per sample and a column per prototype.
    temperature: T.
    iterations: number of rounds.
    used: [r] booleans. The others of the r rows count as absent, also in b.
      Defaults to all used.

  Returns:
    The assignments [r, k]. Rows sum to 1; rows that are not used are zero.
  """
  logits = _f64(logits)
  rows = np.flatnonzero(_flags(used, len(logits)))
  result = np.zeros(logits.shape)
  if not len(rows):
    return result
  # Logarithms of Q: exp would overflow, and a row far below the maximum vanish.
  log_q = logits[rows] / temperature
  b, k = log_q.shape
  for _ in range(iterations):
    for j in range(k):
      log_q[:, j] -= logsumexp(log_q[:, j]) + math.log(k)
    for i in range(b):
      log_q[i] -= logsumexp(log_q[i]) + math.log(b)
  result[rows] = b * np.exp(log_q)
  return result


def sinkhorn_center(
  logits: np.ndarray,
  temperature: float,
  iterations: int = 3,
  used: np.ndarray | None = None,
) -> np.ndarray:
  """Center [k] of mean 0 for which a softmax gives Sinkhorn's assignments.

      sinkhorn(logits, T)_i = softmax((logits_i - center) / T), i used.

  Q_ij = e^(logits_ij/T + f_i + g_j) for factors e^f of rows and e^g of columns.
  The last step normalizes rows, so center = -T g. Subtracting the mean over
  the k prototypes does not change the softmax. The identity needs at least one
  round. Without used rows the center is zero.

  Args:
    logits: [r, k], a row per sample and a column per prototype.
    temperature: T.
    iterations: number of rounds, at least 1.
    used: [r] booleans. The others of the r rows count as absent. Defaults to
      all used.
  """
  assert iterations >= 1
  logits = _f64(logits)
  rows = np.flatnonzero(_flags(used, len(logits)))
  b, k = len(rows), logits.shape[1]
  if not b:
    return np.zeros(k)
  scaled = logits[rows] / temperature
  f, g = np.zeros(b), np.zeros(k)
  for _ in range(iterations):
    for j in range(k):
      g[j] = -math.log(k) - logsumexp(scaled[:, j] + f)
    for i in range(b):
      f[i] = -math.log(b) - logsumexp(scaled[i] + g)
  return -temperature * (g - sum(g) / k)


def koleo(x: np.ndarray) -> float:
  """-1/b sum_i log(||x_i - x_nn(i) + 1e-8|| + 1e-8), rows of norm 1.

  The nearest neighbor nn(i) has the largest inner product with x_i among the
  other rows. The inner 1e-8 is added to each dimension.
  """
  x = _unit(x)
  b, total = len(x), 0.0
  assert b >= 2
  for i in range(b):
    nearest, largest = -1, -math.inf
    for j in range(b):
      if j != i and float(x[i] @ x[j]) > largest:
        nearest, largest = j, float(x[i] @ x[j])
    distance = float(np.linalg.norm(x[i] - x[nearest] + 1e-8))
    total -= math.log(distance + 1e-8)
  return total / b


def gram_loss(student_tokens: np.ndarray, gram_tokens: np.ndarray) -> float:
  """1/(b n²) sum_images ||Xs Xs^T - Xg Xg^T||_F², rows of Xs, Xg of norm 1.

  Args:
    student_tokens: [b, n, w] patch tokens after the final norm.
    gram_tokens: [b, n, w] patch tokens of the gram teacher.
  """
  b, n, _ = np.shape(student_tokens)
  total = 0.0
  for image in range(b):
    s, g = _unit(student_tokens[image]), _unit(gram_tokens[image])
    for i in range(n):
      for j in range(n):
        total += (float(s[i] @ s[j]) - float(g[i] @ g[j])) ** 2
  return total / (b * n * n)


def center_update(
  center: np.ndarray,
  logits: np.ndarray,
  used: np.ndarray | None,
  momentum: float,
) -> np.ndarray:
  """momentum center + (1 - momentum) mean of the used rows.

  Args:
    center: [k].
    logits: [r, k] teacher logits of all tokens of the batch.
    used: [r] booleans: all tokens for iBOT (or None), hidden ones for DINOv2.
    momentum: 0.9 in both methods.

  Returns:
    The new center [k]; the old center if no row is used.
  """
  center, logits = _f64(center), _f64(logits)
  rows = np.flatnonzero(_flags(used, len(logits)))
  if not len(rows):
    return center.copy()
  mean = np.zeros(len(center))
  for i in rows:
    mean += logits[i] / len(rows)
  return momentum * center + (1 - momentum) * mean
