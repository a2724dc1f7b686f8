import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from jssl.bench import __main__ as command
from jssl.bench import harness
from jssl.bench.harness import Case, Timing


def test_ratios_are_of_the_same_round(capsys):
  timings = {
    "first": iter([Timing(9, 9), Timing(1, 1, 100), Timing(4, 2, 100)]),
    "second": iter([Timing(9, 9), Timing(1, 1, 50), Timing(4, 2, 50)]),
  }
  cases = [
    Case(name, lambda own=own: next(own), {"cell": name})
    for name, own in timings.items()
  ]
  first, second = harness.measure(cases, rounds=2, columns=harness.RATES)
  assert first["ratio"] == 1
  assert second["case"] == second["cell"] == "second"
  assert second["images/s and core"] == (50 + 25) / 2
  assert second["images/s"] == (50 + 12.5) / 2
  assert second["ratios"] == "0.5 to 0.5"
  assert [timing["items"] for timing in second["rounds"]] == [50, 50]
  assert "round 2: second: 25 images/s and core" in capsys.readouterr().err


def test_items_are_counted_after_the_warm_up():
  calls = []
  timing = harness.timed(lambda: calls.append(None), items=3, calls=3, ahead=2)
  assert timing.items == 9
  assert len(calls) == 5
  assert timing.wall_s > 0
  assert timing.peak_rss_bytes > 2**20


def test_cells_are_computed_from_the_result():
  timing = harness.timed(
    lambda: [1, 2], describe=lambda found: {"length": len(found)}
  )
  assert timing.cells == {"length": 2}


def test_spread():
  assert harness.spread([2.0], "ms") == {"ms": 2.0}
  assert harness.spread([1.0, 2.0, 3.0], "ms") == {
    "ms": 2.0,
    "quartiles": "1.5 to 2.5",
  }


def test_processor_time_of_a_child_is_counted():
  busy = "import time\nwhile time.process_time() < 0.5: pass\ninput()"
  before = harness.children_cpu_s()
  with subprocess.Popen(
    [sys.executable, "-c", "print(1, flush=True)\n" + busy + "\n"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as child:
    child.stdout.readline()
    for _ in range(6000):
      if harness.children_cpu_s() - before >= 0.4:
        break
    grown = harness.children_cpu_s() - before
    child.communicate(b"\n")
  assert grown >= 0.4


def test_a_report_is_a_table_and_json(tmp_path, capsys):
  rows = [
    {"case": "a", "ms": 1.23456, "rounds": [{"wall_s": 1}]},
    {"case": "b"},
  ]
  path = tmp_path / "bench.json"
  report = harness.Report(rows, {"images": 6})
  harness.publish(report, "python -m jssl.bench some", str(path))
  printed = capsys.readouterr().out
  assert "command: python -m jssl.bench some\n" in printed
  assert "images: 6\n" in printed
  assert "| a      | 1.235 |" in printed
  written = json.loads(path.read_text())
  assert written["rows"] == rows
  assert written["images"] == 6
  assert written["device"] == "cpu x 8"


@pytest.mark.parametrize("name", command.BENCHES)
def test_every_benchmark_has_flags_and_a_docstring(name):
  bench = importlib.import_module(f"jssl.bench.{name}")
  assert bench.__doc__
  assert {"rounds"} <= bench.FLAGS.keys()
  assert callable(bench.run)


def test_the_command_line(monkeypatch, capsys):
  arguments = ["diagnostics", "--rows=64", "--dim=4", "--rounds=2"]
  monkeypatch.setattr(sys, "argv", ["bench", *arguments])
  command.main()
  printed = capsys.readouterr().out
  assert "command: python -m jssl.bench diagnostics --rows=64" in printed
  assert "| power law  | streaming |" in printed
  for wrong, message in (
    (["diagnostics", "--rows=2", "--dim=4"], "error: --dim=4: expected"),
    (["diagnostics", "--row=2"], None),
    (["dianostics"], "error: unknown benchmark 'dianostics'"),
  ):
    monkeypatch.setattr(sys, "argv", ["bench", *wrong])
    with pytest.raises(SystemExit) as raised:
      command.main()
    assert raised.value.code == 2 if message is None else message in str(raised)


def test_peak_memory_is_that_of_the_process_alone():
  parent = np.ones(2**26)  # 512 MiB
  assert harness.peak_rss_bytes() > parent.nbytes
  assert harness.in_process(harness.peak_rss_bytes) < parent.nbytes
