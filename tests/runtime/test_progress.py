"""Progress lines against a clock that the test sets."""

import time

from jssl.runtime.progress import progress


def test_logs_at_most_every_ten_seconds(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  for item in progress("features", range(5), 5):
    assert item == now[0] / 6
    now[0] += 6
  # After 12 and 24 seconds: 2 and 4 of 5 items are done.
  assert capsys.readouterr().out.splitlines() == [
    "features: 40%  ETA 0:00:18",
    "features: 80%  ETA 0:00:06",
  ]
