"""Preflight for devices of this machine; a TPU pod is in test_pod.py."""

import json
import os
import re
import subprocess
import sys

import jax
import pytest
import shipped

from jssl.config.parse import replace
from jssl.preflight import check as check_lib
from jssl.preflight import targets, text_report
from jssl.preflight.check import Result, check
from jssl.preflight.hlo.buffers import LineTraffic
from jssl.preflight.hlo.collectives import Collective
from jssl.preflight.hlo.text import Location
from jssl.preflight.html_report import html
from jssl.preflight.programs import Plan, Sizes, programs, total_bytes
from jssl.preflight.requirements import (
  Loop,
  Memory,
  Requirements,
  Roofline,
  _out_of_memory,
)

CPU = targets.target("cpu:4")


def config(**changed):
  changes = {key.replace("__", "."): value for key, value in changed.items()}
  return shipped.config(**{"data.batch_size": 16, **changes})


def said_of(result, tried=()):
  sections = text_report.sections(result)
  suggestion = text_report.suggestion(tried)
  return text_report.text(text_report.title(result), sections, suggestion)


def said_of_sweep(points):
  return text_report.text("sweep", [text_report.sweep_section(points)])


@pytest.fixture(scope="module")
def result():
  return check(config(), CPU)


def test_sizes_are_those_of_the_state(result):
  _, (step, _) = programs(config(), CPU.devices())
  state, batch = step.arguments
  assert result.plan.sizes.parameters == 4 * sum(
    leaf.size for leaf in jax.tree.leaves(state.backbone)
  )
  assert result.plan.sizes.batch * 4 == total_bytes(batch, per_device=False)
  assert result.step.images == 16
  # The compiler's has the step and the key, and no labels: no one reads them.
  held = sum(result.plan.sizes) - result.plan.sizes.prefetched
  assert abs(result.step.memory.arguments - held) < 64
  # Two batches lie ready beside it.
  assert result.plan.sizes.prefetched == 2 * result.plan.sizes.batch
  assert result.step.memory.prefetched == result.plan.sizes.prefetched
  assert result.plan.checkpoint_bytes == total_bytes(
    state._replace(step=(), rng=()), per_device=False
  ) + total_bytes((state.step, state.rng), per_device=False)


@pytest.mark.slow
def test_parameters_split_over_fsdp_take_less_of_a_device(result):
  split = check(config(mesh__data=1, mesh__fsdp=4), CPU, only="train step")
  assert split.plan.mesh == {"data": 1, "fsdp": 4}
  assert split.plan.sizes.parameters < result.plan.sizes.parameters
  assert split.plan.sizes.optimizer < result.plan.sizes.optimizer
  assert split.plan.checkpoint_bytes == result.plan.checkpoint_bytes
  axes = {axis for one in split.step.collectives for axis in one.axes}
  assert axes == {"fsdp"}


def test_what_is_said_of_the_step(result):
  step, features = result.requirements
  assert result.fits
  assert (step.name, features.name) == ("train step", "probe features")
  assert step.product_flops > 3 * features.product_flops * 16 / features.images
  assert step.memory.peak > step.memory.arguments > 0
  kinds = step.memory.kinds
  assert set(kinds) >= {"activations", "gradients"}
  assert sum(kinds.values()) == sum(line.bytes for line in step.memory.lines)
  assert set(features.memory.kinds) == {"others"}
  assert {one.axes for one in step.collectives} == {("data",)}
  assert {one.kind for one in step.collectives} >= {"all-reduce"}
  assert features.collectives == ()
  # Without loops, and with one memory, the compiler counts the same.
  assert abs(features.hbm_bytes / features.accessed_bytes - 1) < 0.01
  ours = [line.location for line in step.memory.lines if line.location]
  assert all("jssl" in location.file for location in ours)
  moved = [(line.read + line.written, line) for line in step.traffic]
  assert sum(size for size, _ in moved) == step.hbm_bytes
  assert moved == sorted(moved, key=lambda one: -one[0])
  assert any("models" in line.location.file for _, line in moved[:5])
  assert any("models" in location.file for location in ours)
  assert result.step.bound is None


def test_words_and_data(result):
  said = said_of(result)
  assert said.startswith("cpu:4: mesh data 4, fsdp 1; 1 host\n")
  for expected in (
    "train step",
    "probe features",
    "jssl/models/",
    "all-reduce",
  ):
    assert expected in said
  found = json.loads(json.dumps(text_report.data(result)))
  assert found["mesh"] == {"data": 4, "fsdp": 1}
  step, _ = found["programs"]
  assert step["memory"]["peak"] == result.step.memory.peak
  assert step["bound"] is None


def test_a_set_that_is_not_prepared_is_taken_by_its_shapes(tmp_path):
  unknown = config(
    data__name="nonesuch",
    data__data_dir=str(tmp_path),
    data__image_size_px=40,
  )
  found = check(unknown, CPU, only="train step")
  assert not found.plan.prepared
  assert found.plan.image_bytes == 40 * 40 * len(unknown.model.mean)
  assert "is not prepared on this machine" in said_of(found)


def requirements(**changed):
  values = {
    "name": "train step",
    "images": 512,
    "fits": True,
    "memory": Memory(16, 10, 4, ()),
    "product_flops": int(1.97e12),
    "hbm_bytes": int(8.19e9),
    "accessed_bytes": None,
    "collectives": (),
    "compile_seconds": 1.0,
    "chip": targets.CHIPS["v5e"],
  }
  return Requirements(**{**values, **changed})


def test_the_roofline_is_the_largest_of_its_parts():
  bound = requirements().bound
  assert bound == pytest.approx(Roofline(0.01, 0.01, 0, 0, 512))
  sent = Collective("all-reduce", ("data",), 1, 0, int(4e9))
  bound = requirements(collectives=(sent,)).bound
  assert bound.bound_by == "links"
  assert bound.seconds == pytest.approx(0.02)
  assert bound.images_per_second == pytest.approx(512 / 0.02)
  assert bound.efficiency == pytest.approx(0.5)
  across_slices = sent._replace(kind="send")
  assert requirements(collectives=(across_slices,)).bound.links == 0
  # The two devices of a chip share its rates.
  two = requirements(chip=targets.CHIPS["tpu7x"]).bound
  assert two.compute == pytest.approx(2 * 1.97e12 / 2307e12)
  assert requirements(hbm_bytes=None).bound is None
  assert requirements(chip=None).bound is None
  # Traffic between nodes is limited by the network.
  between_nodes = sent._replace(network_bytes=int(5e9))
  bound = requirements(
    collectives=(between_nodes,), chip=targets.CHIPS["h100"]
  ).bound
  assert bound.bound_by == "network"
  assert bound.seconds == pytest.approx(0.1)


def test_what_the_compiler_says_when_it_gives_up():
  said = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
    "for HLO temporaries (39.25G) exceeds available HBM (15.75G)."
  )
  assert _out_of_memory(RuntimeError(said)) == (
    int(39.25 * 2**30),
    int(15.75 * 2**30),
  )
  said = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
    "memory space hbm. Used 39.25G of 15.75G hbm. Exceeded hbm capacity."
  )
  assert _out_of_memory(RuntimeError(said)) == (
    int(39.25 * 2**30),
    int(15.75 * 2**30),
  )
  # What a kernel takes of the chip's own is an error, and not a large batch.
  on_chip = said.replace("hbm", "vmem")
  assert _out_of_memory(RuntimeError(on_chip)) is None
  assert _out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: of something")) == (
    0,
    0,
  )
  assert _out_of_memory(RuntimeError("INVALID_ARGUMENT")) is None


GIB = 2**30


def too_large(peak=40 * GIB, held=1 * GIB):
  memory = Memory(16 * GIB, peak, None, ())
  return Result(
    targets.target("v5e:2x4"),
    Plan({"data": 8, "fsdp": 1}, 2, True, 1, Sizes(held, 0, 0, 0, 0, 0), 0),
    (requirements(fits=False, memory=memory, hbm_bytes=None),),
  )


def test_candidates_begin_with_what_costs_least():
  small = config(data__batch_size=256)
  found = [*check_lib.candidates(small, too_large())]
  assert found == [
    {"model.remat": "block"},
    {"model.remat": "block", "train.chunks": 4},
    {"model.remat": "block", "train.chunks": 8},
    {"model.remat": "block", "train.chunks": 16},
    {"model.remat": "block", "data.batch_size": 128},
    {"model.remat": "block", "data.batch_size": 64},
  ]
  # Where the state itself fills the memory, it is split first.
  first, *rest = check_lib.candidates(small, too_large(held=12 * GIB))
  assert first == {"mesh.data": 2, "mesh.fsdp": 4}
  assert all(first.items() <= other.items() for other in rest)
  small = replace(small, {"data.batch_size": 24, "model.remat": "block"})
  assert [*check_lib.candidates(small, too_large())] == []


def test_suggestions_are_compiled_until_one_fits(monkeypatch):
  limits = {1: False, 4: False, 8: True}

  def compiled(config, target, only):
    assert only == "train step"
    fits = limits[config.train.chunks]
    memory = Memory(16 * GIB, 8 * GIB, GIB, ())
    result = too_large()
    return result._replace(
      requirements=(requirements(fits=fits, memory=memory),)
    )

  monkeypatch.setattr(check_lib, "check", compiled)
  given = config(data__batch_size=256, model__remat="block")
  told = []
  tried = check_lib.suggest(given, CPU, too_large(), told.append)
  assert [one.changes for one in tried] == [
    {"train.chunks": 4},
    {"train.chunks": 8},
  ]
  assert [one.fits for one in tried] == [False, True]
  assert told[-1] == "--config.train.chunks=8: fits"
  assert given.train.chunks == 1
  assert "Fits with --config.train.chunks=8" in text_report.suggestion(tried)
  said = said_of(too_large(), tried)
  assert "does not fit: 40.00 GiB, 24.00 GiB above 16.00 GiB" in said
  assert "BatchNorm uses the statistics of each chunk" in said
  assert "Does not fit with any" in text_report.suggestion(tried[:1])


def test_where_batches_that_lie_ready_are_too_much():
  memory = Memory(16 * GIB, 15 * GIB, GIB, (), 2 * GIB)
  assert memory.spare == -GIB
  result = too_large()
  result = result._replace(
    plan=result.plan._replace(sizes=Sizes(0, 0, 0, 0, GIB, 2 * GIB)),
    requirements=(requirements(fits=False, memory=memory),),
  )
  given = config(data__batch_size=256)
  assert next(check_lib.candidates(given, result)) == {
    "data.prefetch_batches": 1
  }
  assert text_report.verdict(result.step) == (
    "does not fit: 15.00 GiB plus 2.00 GiB of prefetched batches, 1.00 GiB "
    "above 16.00 GiB"
  )


def test_where_only_the_probe_is_out_of_memory(monkeypatch):
  features = requirements(name="probe features", fits=False)
  result = too_large()._replace(requirements=(requirements(), features))
  asked = []

  def compiled(config, target, only):
    asked.append((only, config.probe.batch_size))
    fits = config.probe.batch_size <= 64
    return result._replace(requirements=(features._replace(fits=fits),))

  monkeypatch.setattr(check_lib, "check", compiled)
  given = config(probe__batch_size=256)
  tried = check_lib.suggest(given, CPU, result)
  assert asked == [("probe features", 128), ("probe features", 64)]
  assert tried[-1].fits
  assert text_report.suggestion(tried) == (
    "Fits with --config.probe.batch_size=64 (compiled)."
  )


def test_loops_of_unknown_length_are_listed():
  loop = Loop("jit(f)/while", Location("/a/one.py", 5))
  rows = text_report.requirement_rows(requirements(unknown_loops=(loop,)))
  listed = "loops of unknown length, counted once"
  assert [listed, "/a/one.py:5 jit(f)/while"] in rows
  assert listed not in dict(text_report.requirement_rows(requirements()))


# ---- The command -------------------------------------------------------------


def preflight(*arguments):
  environ = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  return subprocess.run(
    [sys.executable, "-m", "jssl.preflight", *arguments],
    capture_output=True,
    text=True,
    check=False,
    env=environ,
  )


@pytest.mark.slow
def test_the_command(tmp_path):
  arguments = ("--config=configs/quickstart.py", "--config.data.batch_size=8")
  files = [f"--{kind}={tmp_path / kind}" for kind in ("json", "html")]
  done = preflight(*arguments, "--target=cpu:2", *files)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("cpu:2: mesh data 2, fsdp 1")
  found = json.loads((tmp_path / "json").read_text())
  assert found["fits"] is True
  assert "jssl.preflight" in found["command"]
  page = (tmp_path / "html").read_text()
  assert "<h2>Train step, per device</h2>" in page
  assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--target=v99:2x4"], "expected a TPU topology of v4, v5e"),
    (["--target=cpu:3"], "data.batch_size=256 does not divide over 3 devices"),
    (
      ["--target=cpu:2", "--config.mesh.data=2", "--config.mesh.fsdp=3"],
      "mesh.data=2, mesh.fsdp=3 is not a mesh of the 2 devices",
    ),
    (["--target=2xcpu:2"], "expected at least 1 slice for a TPU"),
    # What a run would refuse, or leave devices out of.
    pytest.param(
      ["--target=cpu:8", "--config.mesh.data=2"],
      "mesh.data=2, mesh.fsdp=1 is not a mesh of the 8 devices",
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ["--target=cpu:8", "--config.mesh.fsdp=3"],
      "mesh.data=-1, mesh.fsdp=3 is not a mesh of the 8 devices",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_what_is_wrong_is_told(arguments, message):
  done = preflight("--config=configs/quickstart.py", *arguments)
  assert done.returncode == 1
  assert message in done.stderr
  assert "Traceback" not in done.stderr


# ---- Sweeps ------------------------------------------------------------------


def test_what_a_sweep_says():
  by_key = check_lib.sizes("data.batch_size=8,16", config(), CPU)
  assert [(s.target, s.changes) for s in by_key] == [
    (CPU, {"data.batch_size": 8}),
    (CPU, {"data.batch_size": 16}),
  ]
  by_target = check_lib.sizes("v5e:2x4,2xv5e:16x16", config(), CPU)
  assert [s.target.slices for s in by_target] == [1, 2]
  # 16 images on 4 devices.
  assert [s.changes for s in by_target] == [
    {"data.batch_size": 32, "mesh.data": -1},
    {"data.batch_size": 2048, "mesh.data": -1},
  ]
  with pytest.raises(ValueError, match="integers"):
    check_lib.sizes("data.batch_size=8,many", config(), CPU)
  with pytest.raises(ValueError, match="unknown target"):
    check_lib.sizes("v99:1", config(), CPU)


@pytest.mark.slow
def test_devices_keep_their_images_and_their_memory(tmp_path):
  """With the ring nothing of a device grows with their number.

  Not even by the other devices' features, which a gather would bring.
  """
  wanted = check_lib.sizes("cpu:2,cpu:8", config(), CPU)
  two, eight = check_lib.sweep(config(), wanted)
  assert [two.batch_size, eight.batch_size] == [8, 32]
  assert two.result.plan.mesh == {"data": 2, "fsdp": 1}
  assert eight.result.plan.mesh == {"data": 8, "fsdp": 1}
  peaks = [p.result.step.memory.peak for p in (two, eight)]
  gathered = 4 * 2 * (32 - 8) * config().objective.projector.out_dim
  assert peaks[1] < peaks[0] + gathered / 4
  for point in (two, eight):
    kinds = {one.kind for one in point.result.step.collectives}
    assert kinds == {"all-reduce", "collective-permute"}
  said = said_of_sweep([two, eight])
  assert re.search(r"cpu:8 +8 +32 ", said)
  assert "bound efficiency" in said
  sections = [text_report.sweep_section([two, eight])]
  page = html(
    "sweep", sections, config=config(), command="again", points=[two, eight]
  )
  assert page.count("<svg") == 1
  json.dumps(text_report.sweep_data([two, eight]))


def test_a_size_that_can_not_be_run_is_told_beside_the_others():
  wanted = check_lib.sizes("data.batch_size=16,18", config(), CPU)
  fits, wrong = check_lib.sweep(config(), wanted)
  assert fits.result is not None
  assert wrong.result is None
  said = said_of_sweep([fits, wrong])
  assert "data.batch_size=18 does not divide over 4 devices" in said


@pytest.mark.slow
def test_a_sweep_of_which_a_size_can_not_be_run_ends_with_status_1():
  sizes = "--sweep=data.batch_size=7,9"
  done = preflight("--config=configs/quickstart.py", "--target=cpu:2", sizes)
  assert done.returncode == 1
  assert "data.batch_size=9 does not divide over 2 devices" in done.stdout


@pytest.mark.slow
def test_a_sweep_over_numbers_of_cpu_devices_is_readied_for_the_most():
  arguments = ("--target=cpu:2", "--sweep=cpu:2,cpu:4")
  batch = "--config.data.batch_size=8"
  done = preflight("--config=configs/quickstart.py", batch, *arguments)
  assert done.returncode == 0, done.stdout + done.stderr
  assert re.search(r"cpu:4 +4 +16 ", done.stdout)


def test_a_size_that_is_not_known_ends_no_sweep(monkeypatch):
  monkeypatch.setattr(
    check_lib,
    "check",
    lambda config, target, only: target.devices() and "found",
  )
  wanted = check_lib.sizes("cpu:2,cpu:99,cpu:8", config(), CPU)
  two, unknown, eight = check_lib.sweep(config(), wanted)
  assert (two.result, unknown.result, eight.result) == ("found", None, "found")
  assert "cpu:99" in unknown.error
  assert "this process has 8 CPU devices" in said_of_sweep([unknown])


def test_the_report_says_how_near_the_limit_a_step_is():
  line = LineTraffic(None, int(4e9), int(2e7), "jit(f)/transpose(jvp(g))/dot")
  step = requirements(traffic=(line,), hbm_bytes=int(16.38e9))
  assert ["bound efficiency", "0.50"] in text_report.requirement_rows(step)
  assert text_report.traffic_rows(step) == [
    ["(unknown)", "4 GB", "20 MB", "25%", "dot (backward)"]
  ]
