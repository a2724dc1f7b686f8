"""Float64 oracles of the probes: loops and Newton's method."""

import numpy as np

# A `probe` section that is quick on a few hundred rows.
SETTINGS = {
  "seeds": 2,
  "validation_fraction": 0.2,
  "linear_l2_values": (1e-4, 1e-2, 1e-1, 1.0),
  "linear_tolerance": 1e-4,
  "linear_max_iterations": 500,
  "knn_neighbours": (1, 5, 20),
  "mlp_hidden_dims": (16,),
  "minibatch_size": 64,
  "minibatch_epochs": 20,
  "minibatch_min_steps": 0,
}


def logistic_regression(x, labels, weights, l2, num_classes):
  """Minimises the weighted mean of CE + l2 / 2 |w|^2 by Newton's method.

  Args:
    x: [n, d].
    labels: [n].
    weights: [n].
    l2: of the weights, not of the bias.
    num_classes: k.

  Returns:
    w [k, d] and b [k], whose sum over the classes is zero.
  """
  n, d = x.shape
  x1 = np.concatenate([x, np.ones((n, 1))], 1).astype(np.float64)
  share = np.asarray(weights, np.float64) / np.sum(weights)
  penalty = l2 * np.append(np.ones(d), 0)
  theta = np.zeros((num_classes, d + 1))
  target = np.eye(num_classes)[labels]
  for _ in range(100):
    logits = x1 @ theta.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = (share[:, None] * (p - target)).T @ x1 + penalty * theta
    hessian = np.zeros((num_classes, d + 1, num_classes, d + 1))
    for a in range(num_classes):
      for b in range(num_classes):
        curvature = share * p[:, a] * ((a == b) - p[:, b])
        hessian[a, :, b, :] = (x1 * curvature[:, None]).T @ x1
      hessian[a, :, a, :] += np.diag(penalty)
    # A constant added to all biases changes nothing: the least-norm step.
    size = theta.size
    step = np.linalg.lstsq(
      hessian.reshape(size, size), gradient.reshape(size), rcond=1e-13
    )[0]
    theta -= step.reshape(theta.shape)
    if np.abs(step).max() < 1e-12:
      break
  return theta[:, :d], theta[:, d]


def nearest(query, bank, count):
  """Returns (similarity, row) of the nearest rows of the bank."""
  found = []
  for row, h in enumerate(bank):
    norms = np.linalg.norm(query) * np.linalg.norm(h)
    found.append((float(np.dot(query, h) / norms), row))
  return sorted(found, reverse=True)[:count]


def vote(neighbours, labels, temperature, num_classes):
  """Returns the winning class; temperature None counts heads."""
  votes = np.zeros(num_classes)
  for similarity, row in neighbours:
    votes[labels[row]] += (
      1 if temperature is None else np.exp(similarity / temperature)
    )
  return int(np.argmax(votes))


def mlp_loss(layers, x, labels, weights, l2):
  """Returns the weighted mean CE + l2 / 2 |w|^2 of ReLU layers (w, b)."""
  total = 0.0
  for row, label, weight in zip(x, labels, weights, strict=True):
    h = row.astype(np.float64)
    for i, (w, b) in enumerate(layers):
      h = (np.maximum(h, 0) if i else h) @ w + b
    total += weight * (np.log(np.sum(np.exp(h - h.max()))) + h.max() - h[label])
  penalty = sum(np.sum(np.square(w)) for w, _ in layers)
  return total / np.sum(weights) + l2 / 2 * penalty
