"""The plan, and tables of runs as the project's own writers leave them."""

import ast
import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from probe import made
from study.runs import single_spaced

from jssl import checkpoint
from jssl.checkpoint import Checkpoints
from jssl.config.parse import replace, to_dict
from jssl.objectives import BYOL
from jssl.probe.record_file import RecordFile
from jssl.runtime.workdir import claim_workdir, load_config
from jssl.study import methods, methods_report
from jssl.study import trials as trials_lib

W = pathlib.Path("W")
ECHO = (sys.executable, "-c", "import sys; print(sys.argv[1:])")
ABOUT = methods_report.About(
  command="python -m jssl.study methods --workdir=W",
  machine="2 CPU cores",
  dataset="cluttered_digits",
  steps="2",
  batch_size="16",
  backbone="vit (width=16)",
  seeds=1,
  probe_seeds=3,
)

CONFIG = """
from ml_collections import ConfigDict

METHODS = {
  "simclr": {"temperature": 0.2, "projector": {"out_dim": 8}},
  "byol": {"projector": {"out_dim": 8}, "predictor": {"out_dim": 8}},
  "vicreg": {"projector": {"out_dim": 8}},
}


def get_config(arg="simclr"):
  method, _, steps = arg.partition(",")
  return ConfigDict({
    "data": {
      "name": "cluttered_digits", "batch_size": 16, "image_size_px": 32
    },
    "augment": {"crop_size_px": 16, "crop_min_area": 0.5},
    "model": {
      "name": "vit", "patch_size_px": 8, "width": 16, "depth": 1,
      "num_heads": 2, "mean": (0.4,), "std": (0.25,),
    },
    "objective": {"name": method, **METHODS[method]},
    "optim": {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 1},
    "train": {"steps": int(steps or 2)},
    "checkpoint": {"every_steps": int(steps or 2)},
    "log": {"every_steps": 1},
    "probe": {
      "seeds": 2, "label_fractions": (), "minibatch_epochs": 1,
      "minibatch_min_steps": 1, "mlp_hidden_dims": (8,),
      "mlp_learning_rates": (1e-3,), "mlp_l2_values": (1e-4,),
      "linear_l2_values": (1e-3,), "linear_max_iterations": 3,
      "knn_neighbours": (5,),
    },
  })
"""


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG)
  return str(path)


def write_training(trial, seconds=(9.0, 0.25, 0.5, 0.125), steps=None):
  """Leaves what a training does; the first logged row is that of compiling."""
  claim_workdir(to_dict(trial.config), trial.workdir)
  with (trial.workdir / "metrics.jsonl").open("w") as file:
    for step, value in enumerate(seconds, 1):
      row = {
        "step": step,
        "loss": 1.0,
        "learning_rate": 0.1,
        "images_per_second": 16 / value,
        "seconds_per_step": value,
        "seconds": 1.0,
        "time": 0.0,
      }
      file.write(f"{json.dumps(row)}\n")
  items = {"backbone": {"w": np.zeros(1)}}
  with Checkpoints(trial.workdir, keep_last=2, keep_every_steps=None) as kept:
    if (steps or trial.steps) not in checkpoint.steps(trial.workdir):
      kept.save(steps or trial.steps, items)


def write_probe(trial, features, linear, step=None):
  """Leaves the rows of one subject: MLP 1 point above linear, kNN 2 below."""
  if step is None:
    step = trial.steps if features == "backbone" else 0
  about = {"step": step, "dataset": trial.dataset, "features": features}
  if features == "backbone":
    about["backbone"] = "teacher" if trial.method == "byol" else "student"
  scores = [
    ("linear", 1.0, linear),
    ("linear", 0.1, 0.01),
    ("mlp", 1.0, linear + 0.01),
    ("knn", 1.0, linear - 0.02),
  ]
  file = RecordFile(trial.workdir)
  file.replace([made.spectrum_record(auc=0.5 + linear / 4, **about)])
  file.replace(
    [
      made.probe_record(
        probe=probe,
        label_fraction=share,
        test_accuracy=accuracy,
        test_accuracy_std=0.0123,
        seeds=2,
        **about,
      )
      for probe, share, accuracy in scores
    ]
  )


def silent(line):
  del line


# ---- Plan --------------------------------------------------------------------


def test_plan_has_every_method_and_seed(config_file):
  trials = trials_lib.plan(config_file, W, seeds=2)
  assert [(t.method, t.seed, str(t.workdir)) for t in trials] == [
    ("simclr", 0, "W/simclr/seed_0"),
    ("simclr", 1, "W/simclr/seed_1"),
    ("byol", 0, "W/byol/seed_0"),
    ("byol", 1, "W/byol/seed_1"),
    ("vicreg", 0, "W/vicreg/seed_0"),
    ("vicreg", 1, "W/vicreg/seed_1"),
  ]


def test_plan_of_some_methods_with_overrides(config_file):
  steps = "--config.train.steps=7"
  (trial,) = trials_lib.plan(
    config_file, W, methods=["byol"], overrides=[steps]
  )
  assert trial.flags == (
    f"--config={config_file}:byol", steps, "--config.seed=0",
  )  # fmt: skip
  assert type(trial.config.objective) is BYOL
  assert trial.config.train.steps == trial.steps == 7
  assert trial.config.seed == 0


def test_what_follows_the_colon_goes_to_each_method(config_file):
  trials = trials_lib.plan(f"{config_file}:,9", W, methods=["byol", "simclr"])
  assert [t.flags[0] for t in trials] == [
    f"--config={config_file}:byol,9",
    f"--config={config_file}:simclr,9",
  ]
  assert [t.steps for t in trials] == [9, 9]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ["simclear"]}, "simclear.*known: simclr, byol, vicreg"),
    ({"overrides": ["--config.train.stebs=1"]}, "stebs"),
    ({"overrides": ["--config.train.steps=many"]}, "many"),
    ({"overrides": ["--config.seed=3"]}, "--seeds"),
  ],
)
def test_plan_refuses_what_is_unknown(config_file, changes, message):
  with pytest.raises((ValueError, TypeError), match=message):
    trials_lib.plan(config_file, W, **changes)


def test_plan_refuses_other_config_files(config_file, tmp_path):
  with pytest.raises(ValueError, match="choose methods with --methods"):
    trials_lib.plan(f"{config_file}:byol", W)
  (tmp_path / "one.py").write_text("def get_config():\n  return None\n")
  with pytest.raises(ValueError, match="has no METHODS"):
    trials_lib.plan(str(tmp_path / "one.py"), W)
  with pytest.raises(FileNotFoundError):
    trials_lib.plan(str(tmp_path / "none.py"), W)


def test_calls_and_their_environments(config_file):
  (trial,) = trials_lib.plan(config_file, W, methods=["byol"])
  training, probe = trials_lib.processes(
    trial, baselines=(), environ={"A": "b"}
  )
  assert training == (
    (
      *(sys.executable, "-m", "jssl.train"),
      f"--config={config_file}:byol",
      "--config.seed=0",
      "--config.probe.baselines=()",
      "--workdir=W/byol/seed_0",
    ),
    {"A": "b", "JAX_NUM_CPU_DEVICES": "2"},
  )
  assert probe == (
    (sys.executable, "-m", "jssl.probe", "--workdir=W/byol/seed_0"),
    {"A": "b", "JAX_NUM_CPU_DEVICES": "1"},
  )
  given = {"JAX_NUM_CPU_DEVICES": "4"}
  training, probe = trials_lib.processes(
    trial, baselines=["random"], environ=given
  )
  assert "--config.probe.baselines=('random',)" in training.command
  assert training.environ["JAX_NUM_CPU_DEVICES"] == "4"
  assert probe.environ["JAX_NUM_CPU_DEVICES"] == "1"


def test_config_strings_are_text_to_the_shell(config_file, tmp_path):
  """A method is a part of arguments and of a folder, and of no command line."""
  name = f"simclr; touch {tmp_path}/pwned; $(ls)"
  with open(config_file, "a") as file:
    file.write(f"METHODS[{name!r}] = METHODS['simclr']\n")
    file.write("get = get_config\n")
    file.write("def get_config(arg): return get('simclr')\n")
  (trial,) = trials_lib.plan(config_file, tmp_path / "W", methods=[name])
  (_, *arguments), environ = trials_lib.processes(
    trial, baselines=(), environ=os.environ
  )[0]
  log = tmp_path / "log.txt"
  process = trials_lib.Process((*ECHO, *arguments), environ)
  assert trials_lib._run_process(process, log) == 0
  first, told = log.read_text().splitlines()
  assert shlex.split(first)[-len(arguments) :] == arguments
  assert ast.literal_eval(told) == arguments
  assert not (tmp_path / "pwned").exists()


# ---- Run ---------------------------------------------------------------------


@pytest.fixture
def processes(monkeypatch):
  """Processes that leave files at once; `broken` methods print and fail."""

  class Processes:
    def __init__(self):
      self.commands, self.broken, self.trials = [], set(), []

    def __call__(self, call, log):
      module = call.command[2].removeprefix("jssl.")
      workdir = call.command[-1].removeprefix("--workdir=")
      (trial,) = [t for t in self.trials if str(t.workdir) == workdir]
      measured = [
        ast.literal_eval(part.partition("=")[2])
        for part in call.command
        if "probe.baselines" in part
      ]
      self.commands.append((module, trial.method, *measured))
      log.parent.mkdir(parents=True, exist_ok=True)
      if (module, trial.method) in self.broken:
        log.write_text("step 1\nValueError: a | b\n\n")
        return 1
      if module == "train":
        changes = {"probe.baselines": measured[-1]}
        config = replace(trial.config, changes)
        write_training(trial._replace(config=config))
        return 0
      for kind in load_config(workdir)["probe"]["baselines"]:
        write_probe(trial, kind, 0.3)
      write_probe(trial, "backbone", 0.6)
      return 0

    def take(self):
      taken, self.commands = self.commands, []
      return taken

  made = Processes()
  monkeypatch.setattr(trials_lib, "_run_process", made)
  return made


def test_runs_what_is_not_complete_and_baselines_once(
  config_file, tmp_path, processes
):
  trials = trials_lib.plan(config_file, tmp_path)
  processes.trials = trials
  processes.broken = {("train", "simclr"), ("probe", "vicreg")}
  failures = trials_lib.run(trials, environ={}, log=silent)
  assert failures == ["ValueError: a | b", "", "ValueError: a | b"]
  both = ("pixels", "random")
  assert processes.take() == [
    ("train", "simclr", both),
    ("train", "byol", both),
    ("probe", "byol"),
    ("train", "vicreg", ()),
    ("probe", "vicreg"),
  ]
  # A second time: byol is complete, and has the baselines.
  processes.broken = set()
  assert trials_lib.run(trials, environ={}, log=silent) == [""] * 3
  assert processes.take() == [
    ("train", "simclr", ()),
    ("probe", "simclr"),
    ("train", "vicreg", ()),
    ("probe", "vicreg"),
  ]
  assert trials_lib.run(trials, environ={}, log=silent) == [""] * 3
  assert processes.take() == []
  # Alone, a method without baselines has to measure them.
  alone = trials_lib.plan(config_file, tmp_path, methods=["simclr"])
  assert trials_lib.run(alone, environ={}, log=silent) == [""]
  assert processes.take() == [
    ("train", "simclr", both),
    ("probe", "simclr"),
  ]
  assert {r.features for r in RecordFile(trials[0].workdir).read()} == {
    *("pixels", "random", "backbone")
  }
  # What is there belongs to its config.
  before = (trials[1].workdir / "config.json").read_text()
  for flag, message in [
    ("--config.train.steps=3", "train.steps: was 2, now 3"),
    ("--config.probe.seeds=5", "probe.seeds: was 2, now 5"),
  ]:
    other = trials_lib.plan(config_file, tmp_path, overrides=[flag])
    with pytest.raises(ValueError, match=message):
      trials_lib.run(other, environ={}, log=silent)
  assert processes.take() == []
  assert (trials[1].workdir / "config.json").read_text() == before


@pytest.mark.parametrize(
  "change", [{"model.width": 32}, {"probe.features": "mean"}], ids=str
)
def test_a_random_backbone_is_that_of_the_model_and_its_vectors(
  config_file, tmp_path, processes, change
):
  small, large = trials_lib.plan(
    config_file, tmp_path, methods=["simclr", "byol"]
  )
  large = large._replace(config=replace(large.config, change))
  trials = processes.trials = [small, large]
  assert trials_lib.run(trials, environ={}, log=silent) == ["", ""]
  assert processes.take() == [
    ("train", "simclr", ("pixels", "random")),
    ("probe", "simclr"),
    ("train", "byol", ("random",)),
    ("probe", "byol"),
  ]
  write_probe(large, "random", 0.58)
  names = {row.name: row for row in methods.collect(trials, ["", ""])}
  assert [*names] == [
    "raw pixels",
    "random backbone (that of simclr)",
    "random backbone (that of byol)",
    "simclr",
    "byol",
  ]
  above = names["simclr"].above_random_points
  assert above == pytest.approx(30)
  assert names["byol"].above_random_points == pytest.approx(2)


def test_no_baselines_where_the_config_wants_none(
  config_file, tmp_path, processes
):
  trials = trials_lib.plan(
    config_file,
    tmp_path,
    methods=["byol"],
    overrides=["--config.probe.baselines=()"],
  )
  processes.trials = trials
  assert trials_lib.run(trials, environ={}, log=silent) == [""]
  (row,) = methods.collect(trials, [""])
  assert (row.name, row.above_random_points) == ("byol", None)
  page = single_spaced(methods_report.markdown(ABOUT, [row]))
  assert page.splitlines()[-1] == (
    "| byol | 60.0 ± 1.2 | 61.0 ± 1.2 | 58.0 ± 1.2 | - | 0.650 | 4.00 |"
  )


def is_complete(trial):
  return trial.is_trained() and trial.is_probed()


def test_complete_is_the_last_step_trained_and_probed(config_file, tmp_path):
  (trial,) = trials_lib.plan(config_file, tmp_path, methods=["byol"])
  assert not is_complete(trial)
  write_training(trial, steps=1)
  write_probe(trial, "backbone", 0.5, step=1)
  assert not is_complete(trial)
  write_training(trial)
  assert not is_complete(trial)
  write_probe(trial, "random", 0.5)
  assert not is_complete(trial)
  write_probe(trial, "backbone", 0.5)
  assert is_complete(trial)


def test_a_training_that_stops_early_is_not_probed(
  config_file, tmp_path, monkeypatch
):
  ran = []

  def stops(call, log):
    ran.append(call.command[2])
    log.parent.mkdir(parents=True)
    log.write_text("stopped by SIGTERM\n")
    return 0

  monkeypatch.setattr(trials_lib, "_run_process", stops)
  trials = trials_lib.plan(config_file, tmp_path, methods=["byol"])
  failures = trials_lib.run(trials, environ={}, log=silent)
  assert failures == ["stopped by SIGTERM"]
  assert ran == ["jssl.train"]


def python(code, **environ):
  return trials_lib.Process(
    (sys.executable, "-c", code), {**os.environ, **environ}
  )


def test_output_and_environment_of_a_process(tmp_path):
  log = tmp_path / "new" / "log.txt"
  code = "import os, sys; print(os.environ['A']); sys.exit('worse')"
  assert trials_lib._run_process(python(code, A="told"), log) == 1
  assert {*log.read_text().splitlines()[1:]} == {"worse", "told"}
  assert log.read_text().startswith(f"$ {sys.executable} -c 'import os")
  code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
  assert trials_lib._run_process(python(code), log) == -9
  assert log.read_text().splitlines()[-1] == "ended by signal 9"
  assert "told" in log.read_text()


def test_an_interrupted_study_ends_its_process(tmp_path, monkeypatch):
  """As the training, which saves when it is terminated."""
  code = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved')))\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
  )
  log = tmp_path / "log.txt"
  wait = subprocess.Popen.wait

  def interrupted(process):
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    while "\nready" not in log.read_text():
      time.sleep(0.01)
    raise KeyboardInterrupt

  monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
  with pytest.raises(KeyboardInterrupt):
    trials_lib._run_process(python(code), log)
  assert log.read_text().splitlines()[-1] == "saved"


# ---- Collect and table -------------------------------------------------------


def write_trial(trial, linear, **changes):
  write_training(trial, **changes)
  write_probe(trial, "backbone", 0.99, step=1)  # Not of the last step.
  write_probe(trial, "backbone", linear)


def test_collects_the_last_step_beside_the_baselines(config_file, tmp_path):
  trials = trials_lib.plan(config_file, tmp_path)
  simclr, byol, vicreg = trials
  write_trial(simclr, 0.54)
  write_trial(byol, 0.75, seconds=(7.0,))
  write_probe(byol, "pixels", 0.4)
  write_probe(byol, "random", 0.5)
  pixels, random, *rows = methods.collect(trials, ["", "", "boom"])
  assert (pixels.name, random.name) == ("raw pixels", "random backbone")
  assert pixels.accuracies["knn"] == methods.Accuracy(0.38, 0.0123)
  assert random.collapse_auc == pytest.approx(0.625)
  assert random.steps_per_second is random.above_random_points is None
  best, second, failed = rows
  assert (best.name, second.name) == ("byol", "simclr")
  assert second.accuracies == {
    "linear": methods.Accuracy(0.54, 0.0123),
    "mlp": methods.Accuracy(0.54 + 0.01, 0.0123),
    "knn": methods.Accuracy(0.54 - 0.02, 0.0123),
  }
  assert second.above_random_points == pytest.approx(4)
  assert second.collapse_auc == 0.5 + 0.54 / 4
  # The median of 4, 2 and 8 steps/s; one row is that of the compilation.
  assert second.steps_per_second == 4
  assert best.steps_per_second is None
  assert failed == methods.Row(vicreg.method, failure="boom")
  assert (best.is_close_to_random, second.is_close_to_random) == (False, True)


def test_several_pretraining_seeds(config_file, tmp_path):
  trials = trials_lib.plan(config_file, tmp_path, methods=["simclr"], seeds=2)
  for trial, linear in zip(trials, (0.5, 0.6), strict=True):
    write_trial(trial, linear)
  (row,) = methods.collect(trials, ["", ""])
  assert row.accuracies["linear"].mean == pytest.approx(0.55)
  assert row.accuracies["linear"].std == pytest.approx(0.05)
  assert row.collapse_auc == pytest.approx(0.5 + 0.55 / 4)
  assert row.steps_per_second == 4
  (row,) = methods.collect(trials, ["", "boom"])
  assert row == methods.Row("simclr", failure="seed 1: boom")


def test_a_random_backbone_is_that_of_the_seed(config_file, tmp_path):
  trials = trials_lib.plan(config_file, tmp_path, methods=["simclr"], seeds=2)
  for trial, linear in zip(trials, (0.5, 0.6), strict=True):
    write_trial(trial, linear)
    write_probe(trial, "pixels", 0.3 + linear)
    write_probe(trial, "random", linear - 0.2)
  pixels, random, row = methods.collect(trials, ["", ""])
  # Raw pixels have no seed: the first are as good as any.
  assert pixels.accuracies["linear"] == methods.Accuracy(0.8, 0.0123)
  assert random.accuracies["linear"].mean == pytest.approx(0.35)
  assert random.accuracies["linear"].std == pytest.approx(0.05)
  assert row.above_random_points == pytest.approx(20)


def test_differences_are_paired_by_seed(config_file, tmp_path):
  trials = trials_lib.plan(
    config_file, tmp_path, methods=["simclr", "byol"], seeds=3
  )
  # The seeds vary by 10 points, the difference by 0.1.
  for trial, linear in zip(
    trials, (0.5, 0.6, 0.7, 0.52, 0.621, 0.719), strict=True
  ):
    write_trial(trial, linear)
  table = single_spaced(methods_report.differences_table(trials))
  row = table.splitlines()[-1].split(" | ")
  assert row[:3] == ["| byol", "3", "+2.00"]
  assert row[3] == "+1.75 to +2.25"
  # Seeds 1 and 2 of one method, 0 and 2 of the other: one pair.
  assert methods_report.differences_table([*trials[1:4], trials[5]]) == ""


def diagnose(trial, step, **values):
  record = made.diagnostics_record(step, "projector", dataset=trial.dataset)
  record = dataclasses.replace(record, values=values)
  RecordFile(trial.workdir).replace([record])


def test_what_features_are_like_over_seeds(config_file, tmp_path):
  trials = trials_lib.plan(
    config_file, tmp_path, methods=["simclr", "byol"], seeds=2
  )
  for trial, rank in zip(trials[:2], (3.0, 5.0), strict=True):
    write_trial(trial, 0.5)
    diagnose(trial, 1, rank_me=99.0)
    diagnose(trial, trial.steps, rank_me=rank)
  write_trial(trials[2], 0.5)
  diagnose(trials[2], trials[2].steps, lidar=2.5)
  header, _, first, second = [
    line
    for line in single_spaced(
      methods_report.diagnostics_table(trials)
    ).splitlines()
    if line.startswith("|")
  ]
  headings = header.split(" | ")
  first, second = first.split(" | "), second.split(" | ")
  assert first[0] == "| simclr, projector"
  assert second[0] == "| byol, projector"
  assert first[headings.index("RankMe")] == "4.0 ± 1.0"
  assert second[headings.index("LiDAR")] == "2.5"
  assert second[headings.index("RankMe")] == "-"
  # And each by itself.
  methods_report.write(tmp_path, ABOUT, rows(), trials)
  runs = json.loads((tmp_path / "methods.json").read_text())["runs"]
  assert [(run["method"], run["seed"]) for run in runs] == [
    ("simclr", 0),
    ("simclr", 1),
    ("byol", 0),
  ]
  assert runs[1]["diagnostics"] == {"projector": {"rank_me": 5.0}}
  assert runs[1]["accuracies"]["mlp"]["mean"] == 0.51


def test_the_picture_has_each_number_with_its_deviation():
  (ax,) = methods_report.draw(rows()).axes
  names = [label.get_text() for label in ax.get_yticklabels()]
  assert names == ["random backbone", "byol", "simclr"]
  linear, knn = ax.containers
  assert (linear.get_label(), knn.get_label()) == ("linear", "kNN")
  np.testing.assert_allclose(linear.lines[0].get_xydata()[1], [50, 1.1])
  (bars,) = knn.lines[2]
  np.testing.assert_allclose(bars.get_segments()[1], [[24.8, 0.9], [25.2, 0.9]])


def rows():
  accuracies = {
    "linear": methods.Accuracy(0.5, 0.001),
    "knn": methods.Accuracy(0.25, 0.002),
  }
  return [
    methods.Row("random backbone", accuracies, collapse_auc=0.75),
    methods.Row("byol", accuracies, 5.0, 0.7, 12.345),
    methods.Row("simclr", accuracies, 4.9, 0.8, 1.0),
    methods.Row("vicreg", failure="ValueError: a | b"),
  ]


def test_markdown():
  page = methods_report.markdown(ABOUT, rows())
  assert page.startswith(
    "# Methods at one budget: cluttered_digits\n"
    "\n"
    "    python -m jssl.study methods --workdir=W\n"
    "\n"
    "- machine: 2 CPU cores\n"
    "- pretraining: 2 steps of 16 images\n"
    "- backbone: vit (width=16)\n"
  )
  table = single_spaced(page[page.index("\n| ") + 1 :])
  table = re.sub("-+", "-", table)
  shared = "50.0 ± 0.1 | - | 25.0 ± 0.2"
  assert table == (
    "| | linear | MLP | kNN | above random | collapse AUC | steps/s |\n"
    "|:-|-:|-:|-:|-:|-:|-:|\n"
    f"| random backbone | {shared} | - | 0.750 | - |\n"
    f"| byol | {shared} | +5.0 | 0.700 | 12.35 |\n"
    f"| simclr † | {shared} | +4.9 | 0.800 | 1.00 |\n"
    "| vicreg | failed: ValueError: a \\| b | - | - | - | - | - |\n"
    "\n"
    "† less than 5 points above the random backbone.\n"
  )
  assert "†" not in methods_report.markdown(ABOUT, rows()[:2])


def test_the_caption_says_over_which_seeds():
  one = methods_report.markdown(ABOUT, [])
  assert "over the 3 seeds of the probe, of one pretraining seed" in one
  two = methods_report.markdown(dataclasses.replace(ABOUT, seeds=2), [])
  assert "over 2 pretraining seeds (raw pixels: over the 3 seeds" in two


def test_about_says_what_ran_and_where(config_file):
  trials = trials_lib.plan(config_file, W, seeds=2)
  about = methods_report.about(
    trials, command="study", environ={"JAX_PLATFORMS": "cpu;ls", "HOME": "h"}
  )
  assert about.command == "JAX_PLATFORMS='cpu;ls' study"
  assert about.machine.startswith(f"{os.cpu_count()} CPU cores")
  assert (about.steps, about.batch_size) == ("2", "16")
  assert about.backbone.startswith("vit (")
  assert "width=16" in about.backbone
  assert (about.seeds, about.probe_seeds) == (2, 2)


def test_writes_its_files(tmp_path):
  methods_report.write(tmp_path / "new", ABOUT, rows())
  page = (tmp_path / "new" / "methods.md").read_text()
  assert page == methods_report.markdown(ABOUT, rows())
  read = json.loads((tmp_path / "new" / "methods.json").read_text())
  assert read["machine"] == "2 CPU cores"
  assert [row["name"] for row in read["rows"]] == [r.name for r in rows()]
  assert read["rows"][1]["accuracies"]["linear"] == {"mean": 0.5, "std": 0.001}
  assert read["rows"][3]["failure"] == "ValueError: a | b"
  assert read["runs"] == []
  assert "random backbone" in (tmp_path / "new" / "methods.svg").read_text()


# ---- Command -----------------------------------------------------------------


def study(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "jssl.study", *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["metods"], "expected one study of methods, kernels"),
    ([], "got none"),
    (["methods", "--workdir=W"], "--config is required for `methods`"),
    (["methods", "--config=FILE"], "--workdir is required"),
    (
      ["forecast", "--workdir=gs://bucket/W"],
      "gs://bucket/W: expected a path on a disk",
    ),
    (["methods", "--sed=2"], "Unknown command line flag 'sed'"),
  ],
)
def test_wrong_arguments(arguments, message):
  done = study(*arguments)
  assert done.returncode == 1
  assert message in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_trains_probes_and_tells(config_file, tmp_path):
  with open(config_file, "a") as file:
    file.write('METHODS["w_mse"] = {"projector": {"out_dim": 16}}\n')
  w = tmp_path / "W"
  arguments = (
    "methods",
    f"--config={config_file}",
    f"--workdir={w}",
    "--config.probe.baselines=('random',)",
  )
  linear = "--config.probe.probes=('linear',)"
  done = study(*arguments, "--methods=w_mse,simclr", "--", linear)
  assert done.returncode == 1, done.stderr
  assert done.stdout == (w / "methods.md").read_text()
  table = single_spaced(done.stdout)
  table = table[table.index("| random backbone |") :].splitlines()
  accuracy = r"\d+\.\d ± \d\.\d"
  assert re.match(rf"\| random backbone \| {accuracy} \| - \| - \|", table[0])
  assert re.match(rf"\| simclr( †)? \| {accuracy} \| - \| - \|", table[1])
  assert "| w_mse | failed: error: data.batch_size=16 must exceed" in table[2]
  assert not (w / "w_mse" / "seed_0" / "config.json").exists()
  log = (w / "simclr" / "seed_0" / "log.txt").read_text()
  assert "step 2/2 (100%)" in log
  assert "random on cluttered_digits: linear" in log
  # Again: nothing is left to do.
  done = study(*arguments, linear, "--methods=simclr")
  assert done.returncode == 0, done.stderr
  assert "[1/1] simclr, seed 0: complete" in done.stderr
  assert (w / "simclr" / "seed_0" / "log.txt").read_text() == log
