import numpy as np
import pytest

from jssl.probe.retrieval import average_precision, retrieval_record

FIELDS = {
  "step": 1,
  "dataset": "made",
  "features": "backbone",
  "vectors": "pooled",
}
NAMES = ("a", "b", "c", "d", "e")


def by_hand(ranked, label, k, total):
  """Weyand et al.: the sum over relevant ranks of the precision there."""
  hits, score = 0, 0.0
  for rank, other in enumerate(ranked[:k], start=1):
    if other == label:
      hits += 1
      score += hits / rank
  return score / min(k, total)


def ranked(query, bank):
  bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
  return np.argsort(-(bank @ query), kind="stable")


@pytest.mark.parametrize("k", [1, 20, 500])
def test_precision_equals_the_loop(train, test, one_device, eight_devices, k):
  test = test._replace(labels=np.minimum(test.labels, 2))  # None of class 3.
  found = [
    retrieval_record(train, test, NAMES, k=k, mesh=mesh, **FIELDS)
    for mesh in (one_device, eight_devices)
  ]
  wide, used = train.h.astype(np.float64), min(k, 302)
  of_class = {}
  for query, label in zip(test.h, test.labels, strict=True):
    labels = train.labels[ranked(query, wide)]
    total = np.sum(train.labels == label)
    of_class.setdefault(label, []).append(by_hand(labels, label, used, total))
  for got in found:
    assert got.neighbours == used
    assert got.name == f"mAP@{used}"
    assert got.images == np.bincount(test.labels, minlength=5).tolist()
    want = [np.mean(of_class.get(c, [0.0])) for c in range(5)]
    np.testing.assert_allclose(got.average_precision, want, atol=1e-4)
    np.testing.assert_allclose(
      got.mean_average_precision,
      np.mean([x for values in of_class.values() for x in values]),
      atol=1e-4,
    )
    np.testing.assert_allclose(
      got.balanced_average_precision, np.mean(want[:3]), atol=1e-4
    )
    assert 0.2 < got.mean_average_precision < 1


def test_all_relevant_images_first_are_perfect():
  relevant = np.array([[True, True, False], [True, True, True]])
  got = average_precision(relevant, np.array([2, 50]))
  np.testing.assert_allclose(got, [1, 1])
  late = average_precision(relevant[:1, ::-1], np.array([2]))
  np.testing.assert_allclose(late, [(1 / 2 + 2 / 3) / 2])
