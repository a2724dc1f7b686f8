import dataclasses
import pathlib
import re
import runpy

import numpy as np
import pytest
from ml_collections import ConfigDict

import jssl
from jssl.config.command_line import load
from jssl.config.parse import complete, parse
from jssl.kernel_regime import memory
from jssl.kernel_regime.convolutional import ConvNTK
from jssl.kernel_regime.dense import RBF, ArcCosine
from jssl.kernel_regime.study.config import (
  KERNELS,
  KernelStudy,
  Loss,
  Problem,
  RBFConfig,
)


def config(name="rbf", **sections):
  return complete(
    {
      "data": {
        "name": "cluttered_digits",
        "batch_size": 16,
        "image_size_px": 32,
      },
      "augment": {"crop_size_px": 8, "crop_min_area": 0.5},
      "kernel": {"name": name},
      **sections,
    },
    KernelStudy,
  )


def study(**sections):
  return parse(config(**sections), KernelStudy)


def test_every_key_is_there_and_read():
  given = config("conv_ntk", problem={"views": 3})
  assert {*given.kernel} == {"name", "depth", "readout", "filter_px"}
  assert {*given.problem} == {f.name for f in dataclasses.fields(Problem)}
  given.kernel.depth = 2
  given.loss.beta = 0.25
  found = parse(given, KernelStudy)
  assert found.kernel == ConvNTK(depth=2)
  assert found.loss == Loss("contrastive", 0.25)
  assert (found.problem.views, found.problem.images) == (3, 300)
  assert found.augment.crop_size_px == 8


def test_a_bandwidth_of_0_is_the_median_distance():
  points = np.array([[0.0], [1.0], [3.0]])

  def kernel(**section):
    return study(kernel=section).build_kernel(points)

  assert kernel(name="rbf") == RBF(2.0)
  assert kernel(name="rbf", bandwidth=0.5) == RBF(0.5)
  assert kernel(name="arc_cosine", degree=0, depth=2) == ArcCosine(0, 2)


@pytest.mark.parametrize(
  ("section", "key", "value", "error", "message"),
  [
    ("kernel", "name", "rfb", ValueError, "kernel.name='rfb': did you mean 'r"),
    ("kernel", "bandwidth", -1.0, ValueError, "kernel.bandwidth=-1.0"),
    ("kernel", "depth", 2, ValueError, "kernel.depth is not a key"),
    ("loss", "name", "simclr", ValueError, "loss.name='simclr'.*non_contras"),
    ("loss", "beta", -0.5, ValueError, "loss.beta=-0.5"),
    ("problem", "view", 2, ValueError, "problem.view is not a.*mean 'views'"),
    ("problem", "views", 1, ValueError, "problem.views=1 must be at least 2"),
    ("problem", "views", 2.0, TypeError, "problem.views=2.0.*int"),
    ("problem", "images", 1, ValueError, "problem.images=1"),
    ("problem", "folds", 1, ValueError, "problem.folds=1"),
    ("problem", "alpha", 1.0, ValueError, "problem.alpha=1.0.*less than 1"),
    ("problem", "alpha", -0.1, ValueError, "problem.alpha=-0.1.*at least 0"),
    ("problem", "d_out", 1201, ValueError, "d_out=1201.*points, 1200"),
    ("sweep", "views", (4, 1), ValueError, r"sweep.views=\(4, 1\)"),
    ("sweep", "labels", (301,), ValueError, "problem.images=300"),
    ("sweep", "betas", (-1.0,), ValueError, "sweep.betas"),
    ("sweep", "alphas", (1.5,), ValueError, "sweep.alphas"),
    ("sweep", "alphas", 0.5, TypeError, "sweep.alphas=0.5.*a tuple"),
  ],
)
def test_errors_name_the_key(section, key, value, error, message):
  wrong = config().to_dict()
  wrong[section][key] = value
  with pytest.raises(error, match=message):
    parse(wrong, KernelStudy)


def test_unknown_sections_and_kernels_are_refused():
  wrong = config()
  wrong.train = ConfigDict({"steps": 2})
  with pytest.raises(ValueError, match="train is not a section"):
    parse(wrong, KernelStudy)
  with pytest.raises(ValueError, match=r"kernel\.name='cnn': known: arc_cosi"):
    parse(config("cnn"), KernelStudy)


def test_fewest_views_bound_the_dimension():
  problem = {"images": 10, "views": 4, "d_out": 40}
  study(problem=problem)
  with pytest.raises(ValueError, match=r"d_out=40 .* 20"):
    study(problem=problem, sweep={"views": (2,)})


def test_more_memory_than_the_limit_is_refused():
  # All pairs of 400 views and 100 images, 7 matrices of views, and all points
  # with 50 test images twice, of float64.
  numbers = 500**2 + 7 * 400**2 + 2 * 50 * 500
  fits = {
    "images": 100,
    "views": 4,
    "test_images": 50,
    "memory_limit_gib": numbers * 8 / 2**30,
  }

  def check(problem, sweep=()):
    with study(problem=problem, sweep=dict(sweep)).memory_limit():
      assert memory.limit_gib() == problem["memory_limit_gib"]

  check(fits)
  for more, sweep in (
    ({"images": 101}, {}),
    ({}, {"views": (5,)}),
    ({"alpha": 0.1}, {}),
    ({}, {"alphas": (0.1,)}),
    ({"test_images": 51}, {}),
  ):
    with pytest.raises(ValueError, match=r"problem\.images=10.*needs.*GiB"):
      check({**fits, **more}, sweep)


# ---- Config files ------------------------------------------------------------

CONFIGS = sorted(
  (pathlib.Path(jssl.__file__).parents[1] / "configs").glob("kernel_*.py")
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_variants_of_a_config_file(path):
  module = runpy.run_path(str(path))
  get_config, doc = module["get_config"], module["__doc__"]
  found = {arg: get_config(arg) for arg in module["VARIANTS"]}
  assert get_config() in found.values()
  for arg, one in found.items():
    parsed = parse(one, KernelStudy)
    assert type(parsed.kernel) is KERNELS[arg]
    with parsed.memory_limit():
      pass
    assert f":{arg}" in doc
  with pytest.raises(ValueError, match="unknown variant 'nonesuch'"):
    get_config("nonesuch")
  assert re.search(r"\(.* et al\.,\s+\d{4}", doc)
  for words in (f"--config=configs/{path.name}", "Cost", "Expected"):
    assert words in doc


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_keys_are_set_on_the_command_line(path):
  spec = f"{path}:rbf"
  found = load(
    spec,
    ["--config.kernel.bandwidth=2.5", "--config.sweep.views=(2,3)"],
    KernelStudy,
  )
  assert found.kernel == RBFConfig(2.5)
  assert found.sweep.views == (2, 3)
  with pytest.raises(ValueError, match="mean 'views'"):
    load(spec, ["--config.problem.view=3"], KernelStudy)
