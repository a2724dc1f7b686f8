"""Losses as the papers' sums, in float64 loops."""

import math

import numpy as np


def _f64(x: np.ndarray) -> np.ndarray:
  return np.asarray(x, np.float64)


def _unit(x: np.ndarray) -> list[np.ndarray]:
  """Rows x_i / max(||x_i||, 1e-12); a zero row stays zero."""
  return [row / max(float(np.linalg.norm(row)), 1e-12) for row in _f64(x)]


def _log_sum_exp(values: list[float]) -> float:
  top = max(values)
  return top + math.log(sum(math.exp(v - top) for v in values))


def _softmax(logits: np.ndarray) -> list[float]:
  log_total = _log_sum_exp(list(logits))
  return [math.exp(u - log_total) for u in logits]


def _cross_entropy(target: list[float], logits: np.ndarray) -> float:
  """-sum_k target_k log softmax(logits)_k."""
  log_total = _log_sum_exp(list(logits))
  return -sum(q * (u - log_total) for q, u in zip(target, logits, strict=True))


def _entropy(p: list[float]) -> float:
  """-sum_k p_k log p_k, where 0 log 0 = 0."""
  return -sum(x * math.log(x) for x in p if x > 0)


def _logits(features: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
  """[v, b, d] and [k, d] -> [v, b, k], entries <feature, prototype>."""
  w = _f64(prototypes)
  return np.array(
    [[[float(h @ row) for row in w] for h in view] for view in _f64(features)]
  )


def _mean_cosine(x: np.ndarray, y: np.ndarray) -> float:
  """1/b sum_i cos(x_i, y_i)."""
  x, y = _unit(x), _unit(y)
  return sum(float(x[i] @ y[i]) for i in range(len(x))) / len(x)


def nt_xent(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
  """SimCLR, eq. 1, averaged over the 2b rows."""
  z = [row / max(np.linalg.norm(row), 1e-12) for row in [*z1, *z2]]
  b, total = len(z1), 0.0
  for i in range(2 * b):
    partner = (i + b) % (2 * b)
    others = [
      math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * b) if k != i
    ]
    positive = math.exp(float(z[i] @ z[partner]) / temperature)
    total -= math.log(positive / sum(others))
  return total / (2 * b)


def info_nce(
  queries: np.ndarray,
  keys: np.ndarray,
  temperature: float,
  negatives: np.ndarray | None = None,
  symmetric: bool = False,
) -> float:
  """-1/b sum_i log softmax_j(q_i.k_j/T)_i, j over the keys, or i and queue."""
  if symmetric:
    there = info_nce(queries, keys, temperature, negatives)
    back = info_nce(keys, queries, temperature, negatives)
    return (there + back) / 2
  q, k = _unit(queries), _unit(keys)
  queue = None if negatives is None else _unit(negatives)
  b, total = len(q), 0.0
  for i in range(b):
    positive = float(q[i] @ k[i]) / temperature
    if queue is None:
      row = [float(q[i] @ k[j]) / temperature for j in range(b)]
    else:
      row = [positive] + [float(q[i] @ n) / temperature for n in queue]
    total -= positive - _log_sum_exp(row)
  return total / b


def cissl(
  student: np.ndarray, teacher: np.ndarray, temperature: float
) -> float:
  """-1/2b sum_i 1/2 [log q_i(i) + log q_i(p)], q_i = softmax_j(u_i.v_j/T)."""
  u, v = _unit(student), _unit(teacher)
  n, total = len(u), 0.0
  for i in range(n):
    partner = (i + n // 2) % n
    row = [float(u[i] @ v[j]) / temperature for j in range(n)]
    log_total = _log_sum_exp(row)
    total -= ((row[i] - log_total) + (row[partner] - log_total)) / 2
  return total / n


def dcl(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
  """-1/2b sum_i [z_i.z_p/T - log sum_(k not i, p) e^(z_i.z_k/T)], p partner."""
  z = _unit(z1) + _unit(z2)
  b, total = len(z) // 2, 0.0
  for i in range(2 * b):
    partner = (i + b) % (2 * b)
    negatives = [
      float(z[i] @ z[k]) / temperature
      for k in range(2 * b)
      if k not in (i, partner)
    ]
    positive = float(z[i] @ z[partner]) / temperature
    total -= positive - _log_sum_exp(negatives)
  return total / (2 * b)


def supervised_contrastive(
  z: np.ndarray, labels: np.ndarray, temperature: float
) -> float:
  """-1/n sum_i 1/|P_i| sum_(p in P_i) log softmax_(a!=i)(z_i.z_a/T)_p."""
  z, labels = _unit(z), np.asarray(labels)
  n, total = len(z), 0.0
  for i in range(n):
    others = [a for a in range(n) if a != i]
    positives = [p for p in others if labels[p] == labels[i]]
    if not positives:
      continue
    log_total = _log_sum_exp([float(z[i] @ z[a]) / temperature for a in others])
    log_probs = [
      float(z[i] @ z[p]) / temperature - log_total for p in positives
    ]
    total -= sum(log_probs) / len(positives)
  return total / n


def sigmoid_contrastive(
  x: np.ndarray, y: np.ndarray, scale: float, bias: float
) -> float:
  """-1/b sum_ij log sigmoid(l_ij (scale x_i.y_j + bias)), l_ii = 1, else -1."""
  x, y = _f64(x), _f64(y)
  b, total = len(x), 0.0
  for i in range(b):
    for j in range(b):
      sign = 1.0 if i == j else -1.0
      logit = sign * (scale * float(x[i] @ y[j]) + bias)
      # log sigmoid(u) = -log(e^0 + e^-u).
      total += _log_sum_exp([0.0, -logit])
  return total / b


def spectral_contrastive(z1: np.ndarray, z2: np.ndarray) -> float:
  """-2/b sum_i z1_i.z2_i + 1/(b(b-1)) sum_(i!=j) (z1_i.z2_j)^2."""
  z1, z2 = _f64(z1), _f64(z2)
  b, positives, negatives = len(z1), 0.0, 0.0
  for i in range(b):
    positives += float(z1[i] @ z2[i])
    for j in range(b):
      if i != j:
        negatives += float(z1[i] @ z2[j]) ** 2
  return -2 * positives / b + negatives / (b * (b - 1))


def negative_cosine(p: np.ndarray, z: np.ndarray) -> float:
  """-1/b sum_i cos(p_i, z_i)."""
  return -_mean_cosine(p, z)


def byol(
  p1: np.ndarray, p2: np.ndarray, target1: np.ndarray, target2: np.ndarray
) -> float:
  """mean_i [2 - 2 cos(p1, target2)] + mean_i [2 - 2 cos(p2, target1)]."""
  one = 2 - 2 * _mean_cosine(p1, target2)
  two = 2 - 2 * _mean_cosine(p2, target1)
  return one + two


def simsiam(
  p1: np.ndarray, p2: np.ndarray, z1: np.ndarray, z2: np.ndarray
) -> float:
  """-1/2 [1/b sum_i cos(p1_i, z2_i) + 1/b sum_i cos(p2_i, z1_i)]."""
  return -(_mean_cosine(p1, z2) + _mean_cosine(p2, z1)) / 2


def _mean_and_covariance(
  z: np.ndarray, divisor: int
) -> tuple[np.ndarray, np.ndarray]:
  """m = 1/n sum_i z_i; C = 1/divisor sum_i (z_i - m)(z_i - m)^T."""
  n, d = z.shape
  mean, covariance = np.zeros(d), np.zeros((d, d))
  for row in z:
    mean += row / n
  for row in z:
    covariance += np.outer(row - mean, row - mean) / divisor
  return mean, covariance


def barlow_twins(
  z1: np.ndarray, z2: np.ndarray, off_diagonal_weight: float
) -> float:
  """sum_i (1 - F_ii)^2 + w sum_(i!=j) F_ij^2, F = 1/n sum_m z1_m z2_m^T."""
  standard = []
  for z in (_f64(z1), _f64(z2)):
    mean, covariance = _mean_and_covariance(z, len(z))
    deviation = np.sqrt(np.diag(covariance) + 1e-5)
    standard.append([(row - mean) / deviation for row in z])
  a, b = standard
  n, d = len(a), len(a[0])
  on, off = 0.0, 0.0
  for i in range(d):
    for j in range(d):
      f = sum(float(a[m][i] * b[m][j]) for m in range(n)) / n
      if i == j:
        on += (1 - f) ** 2
      else:
        off += f**2
  return on + off_diagonal_weight * off


def vicreg_terms(z1: np.ndarray, z2: np.ndarray) -> tuple[float, float, float]:
  """mean (z1-z2)^2; 1/2d sum relu(1-sqrt(var+1e-4)); 1/d sum_(i!=j) C_ij^2."""
  z1, z2 = _f64(z1), _f64(z2)
  n, d = z1.shape
  invariance, variance, covariance = 0.0, 0.0, 0.0
  for i in range(n):
    for j in range(d):
      invariance += float(z1[i, j] - z2[i, j]) ** 2 / (n * d)
  for z in (z1, z2):
    _, c = _mean_and_covariance(z, n - 1)
    for i in range(d):
      variance += max(0.0, 1 - math.sqrt(c[i, i] + 1e-4)) / d / 2
      for j in range(d):
        if i != j:
          covariance += float(c[i, j]) ** 2 / d
  return invariance, variance, covariance


def vicreg(
  z1: np.ndarray,
  z2: np.ndarray,
  invariance_weight: float,
  variance_weight: float,
  covariance_weight: float,
) -> float:
  """w_i invariance + w_v variance + w_c covariance."""
  invariance, variance, covariance = vicreg_terms(z1, z2)
  return (
    invariance_weight * invariance
    + variance_weight * variance
    + covariance_weight * covariance
  )


def w_mse(z1: np.ndarray, z2: np.ndarray, eps: float) -> float:
  """mean_i [2 - 2 cos(w1, w2)], w = L^-1 (z - m), L L^T = (1-eps) C + eps I."""
  whitened = []
  for z in (_f64(z1), _f64(z2)):
    n, d = z.shape
    mean, c = _mean_and_covariance(z, n - 1)
    factor = np.linalg.cholesky((1 - eps) * c + eps * np.eye(d))
    whitened.append([np.linalg.solve(factor, row - mean) for row in z])
  return 2 - 2 * _mean_cosine(*whitened)


def sigreg(z: np.ndarray, slices: np.ndarray) -> float:
  """1/s sum_slices n sum_t w_t |1/n sum_i e^(i t p_i) - e^(-t^2/2)|^2."""
  z, slices = _f64(z), _f64(slices)
  n, s, dt, total = len(z), slices.shape[1], 3 / 16, 0.0
  for m in range(s):
    p = [float(row @ slices[:, m]) for row in z]
    statistic = 0.0
    for step in range(17):
      t = step * dt
      window = math.exp(-(t**2) / 2)
      # The trapezoid over [-3, 3]: the integrand is even, 0 and 3 are halved.
      weight = window * (dt if step in (0, 16) else 2 * dt)
      real = sum(math.cos(t * x) for x in p) / n
      imaginary = sum(math.sin(t * x) for x in p) / n
      statistic += weight * ((real - window) ** 2 + imaginary**2)
    total += n * statistic
  return total / s


def dino(
  student: np.ndarray,
  teacher: np.ndarray,
  student_prototypes: np.ndarray,
  teacher_prototypes: np.ndarray,
  center: np.ndarray,
  student_temperature: float,
  teacher_temperature: float,
) -> float:
  """mean_(a!=c) 1/b sum_i CE(softmax((t_ai - m)/T_t), softmax(s_ci/T_s))."""
  s = _logits(student, student_prototypes)
  t = _logits(teacher, teacher_prototypes)
  center, b = _f64(center), s.shape[1]
  total, pairs = 0.0, 0
  for a in range(len(t)):
    for c in range(len(s)):
      if a == c:
        continue
      for i in range(b):
        target = _softmax((t[a, i] - center) / teacher_temperature)
        total += _cross_entropy(target, s[c, i] / student_temperature) / b
      pairs += 1
  return total / pairs


def dino_center(
  teacher: np.ndarray, teacher_prototypes: np.ndarray
) -> np.ndarray:
  """[k]: 1/(ub) sum_a sum_i of the teacher's logits t_ai."""
  t = _logits(teacher, teacher_prototypes)
  views, b, k = t.shape
  center = np.zeros(k)
  for a in range(views):
    for i in range(b):
      center += t[a, i] / (views * b)
  return center


def sinkhorn(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
  """b Q; Q = e^(scores/eps), then in turns columns sum to 1/k, rows to 1/b."""
  scores = _f64(scores)
  b, k = scores.shape
  q = np.exp((scores - scores.max()) / epsilon)
  for _ in range(iterations):
    for j in range(k):
      q[:, j] /= q[:, j].sum() * k
    for i in range(b):
      q[i] /= q[i].sum() * b
  return q * b


def swav(
  z: np.ndarray,
  prototypes: np.ndarray,
  temperature: float,
  epsilon: float,
  iterations: int,
  num_large: int,
) -> float:
  """mean_(a large, c != a) 1/b sum_i CE(sinkhorn(s_a)_i, softmax(s_ci/T))."""
  scores = _logits(z, prototypes)
  views, b, _ = scores.shape
  total = 0.0
  for a in range(num_large):
    q = sinkhorn(scores[a], epsilon, iterations)
    for c in range(views):
      if c == a:
        continue
      for i in range(b):
        ce = _cross_entropy(list(q[i]), scores[c, i] / temperature)
        total += ce / b / (views - 1) / num_large
  return total


def dissl_terms(
  student: np.ndarray,
  teacher: np.ndarray,
  student_prototypes: np.ndarray,
  teacher_prototypes: np.ndarray,
  student_temperature: float,
  teacher_temperature: float,
) -> tuple[float, float, float]:
  """mean_(a!=c) CE(t_a, s_c), mean_a H[mean t_a], mean_(a!=c) CE(t_a, t_c)."""
  s = _logits(student, student_prototypes) / student_temperature
  t = _logits(teacher, teacher_prototypes) / teacher_temperature
  views, b, k = t.shape

  def mean_over_pairs(other: np.ndarray) -> float:
    total, pairs = 0.0, 0
    for a in range(views):
      for c in range(len(other)):
        if a == c:
          continue
        for i in range(b):
          total += _cross_entropy(_softmax(t[a, i]), other[c, i]) / b
        pairs += 1
    return total / pairs

  entropy = 0.0
  for a in range(views):
    probs = [_softmax(t[a, i]) for i in range(b)]
    marginal = [sum(probs[i][j] for i in range(b)) / b for j in range(k)]
    entropy += _entropy(marginal) / views
  return mean_over_pairs(s), entropy, mean_over_pairs(t)


def dissl(
  student: np.ndarray,
  teacher: np.ndarray,
  student_prototypes: np.ndarray,
  teacher_prototypes: np.ndarray,
  student_temperature: float,
  teacher_temperature: float,
  marginal_weight: float,
  invariance_weight: float,
) -> float:
  """CE(t_a, s_c) - lambda H[mean over the batch of t_a] + beta CE(t_a, t_c)."""
  distillation, entropy, invariance = dissl_terms(
    student,
    teacher,
    student_prototypes,
    teacher_prototypes,
    student_temperature,
    teacher_temperature,
  )
  return (
    distillation - marginal_weight * entropy + invariance_weight * invariance
  )


def alignment(z1: np.ndarray, z2: np.ndarray) -> float:
  """1/b sum_i ||z1_i - z2_i||^2."""
  z1, z2 = _f64(z1), _f64(z2)
  total = 0.0
  for i in range(len(z1)):
    total += float((z1[i] - z2[i]) @ (z1[i] - z2[i]))
  return total / len(z1)


def uniformity(z: np.ndarray, t: float = 2.0) -> float:
  """log 1/(n(n-1)) sum_(i!=j) e^(-t ||z_i - z_j||^2)."""
  z = _f64(z)
  n = len(z)
  exponents = [
    -t * float((z[i] - z[j]) @ (z[i] - z[j]))
    for i in range(n)
    for j in range(n)
    if i != j
  ]
  return _log_sum_exp(exponents) - math.log(n * (n - 1))


def koleo(z: np.ndarray, eps: float = 1e-8) -> float:
  """-1/n sum_i 1/2 log(min_(j!=i) ||z_i - z_j||^2 + eps^2)."""
  z = _unit(z)
  n, total = len(z), 0.0
  for i in range(n):
    nearest = min(
      float((z[i] - z[j]) @ (z[i] - z[j])) for j in range(n) if j != i
    )
    total -= math.log(nearest + eps**2) / 2
  return total / n
