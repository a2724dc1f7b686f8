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
from jssl.kernel_regime.convolutional import ConvNTK
from jssl.kernel_regime.dense import RBF, ArcCosine
from jssl.kernel_regime.study import setting as setting_lib
from jssl.kernel_regime.study.setting import Kernels, Loss, Setting


def config(kernel="rbf", **kernels):
  return complete(
    {
      "data": {
        "name": "cluttered_digits",
        "batch_size": 16,
        "image_size_px": 32,
      },
      "augment": {"crop_size_px": 8, "crop_min_area": 0.5},
      "kernel": {"name": kernel},
      "kernels": kernels,
    },
    Setting,
  )


def test_every_key_is_there_and_read():
  found = config("conv_ntk", views=3)
  assert {*found.kernel} == {"name", "depth", "readout", "filter_px"}
  assert {*found.kernels} == {f.name for f in dataclasses.fields(Kernels)}
  found.kernel.depth = 2
  found.loss.beta = 0.25
  found = parse(found, Setting)
  assert found.kernel == ConvNTK(depth=2)
  assert found.loss == Loss("contrastive", 0.25)
  assert (found.kernels.views, found.kernels.images) == (3, 300)
  assert found.augment.crop_size_px == 8


def test_a_bandwidth_of_0_is_the_median_distance():
  points = np.array([[0.0], [1.0], [3.0]])
  of = setting_lib.kernel_of
  assert of(setting_lib.MedianRBF(), points) == RBF(2.0)
  assert of(setting_lib.MedianRBF(0.5), points) == RBF(0.5)
  assert of(ArcCosine(0, 2), points) == ArcCosine(0, 2)


@pytest.mark.parametrize(
  ("section", "key", "value", "error", "message"),
  [
    ("kernel", "name", "rfb", ValueError, "kernel.name='rfb': did you mean 'r"),
    ("kernel", "bandwidth", -1.0, ValueError, "kernel.bandwidth=-1.0"),
    ("kernel", "depth", 2, ValueError, "kernel.depth is not a key"),
    ("loss", "name", "simclr", ValueError, "loss.name='simclr'.*non_contras"),
    ("loss", "beta", -0.5, ValueError, "loss.beta=-0.5"),
    ("kernels", "view", 2, ValueError, "kernels.view is not a.*mean 'views'"),
    ("kernels", "views", 1, ValueError, "kernels.views=1 must be at least 2"),
    ("kernels", "views", 2.0, TypeError, "kernels.views=2.0.*int"),
    ("kernels", "images", 1, ValueError, "kernels.images=1"),
    ("kernels", "folds", 1, ValueError, "kernels.folds=1"),
    ("kernels", "alpha", 1.0, ValueError, "kernels.alpha=1.0.*optimum is 0"),
    ("kernels", "d_out", 1201, ValueError, "d_out=1201.*points, 1200"),
    ("kernels", "sweep_views", (4, 1), ValueError, r"sweep_views=\(4, 1\)"),
    ("kernels", "sweep_labels", (301,), ValueError, "kernels.images=300"),
    ("kernels", "sweep_betas", (-1.0,), ValueError, "kernels.sweep_betas"),
    ("kernels", "sweep_alphas", (1.5,), ValueError, "kernels.sweep_alphas"),
    ("kernels", "sweep_alphas", 0.5, TypeError, "sweep_alphas=0.5.*a tuple"),
  ],
)
def test_what_is_wrong_is_said_with_its_key(
  section, key, value, error, message
):
  wrong = config().to_dict()
  wrong[section][key] = value
  with pytest.raises(error, match=message):
    parse(wrong, Setting)


def test_a_section_that_is_none_is_refused():
  wrong = config()
  wrong.train = ConfigDict({"steps": 2})
  with pytest.raises(ValueError, match="train is not a section"):
    parse(wrong, Setting)
  with pytest.raises(ValueError, match=r"kernel\.name='cnn': known: arc_cosi"):
    parse(config("cnn"), Setting)


def test_fewest_views_bound_the_dimension():
  Kernels(images=10, views=4, d_out=40)
  with pytest.raises(ValueError, match=r"kernels\.d_out=40 .* 20"):
    Kernels(images=10, views=4, d_out=40, sweep_views=(2,))


def test_memory_is_refused_with_the_number_that_fits():
  # All pairs of 400 views and 100 images, 7 matrices of views, and all points
  # with 50 test images twice, of float64.
  numbers = 500**2 + 7 * 400**2 + 2 * 50 * 500
  fits = Kernels(
    images=100, views=4, test_images=50, memory_limit_gib=numbers * 8 / 2**30
  )
  fits.check_memory()
  for more in (
    {"images": 101},
    {"sweep_views": (5,)},
    {"alpha": 0.1},
    {"test_images": 51},
  ):
    wanted = r"N=\d+, \d+ images, would fit.*memory_limit_gib"
    with pytest.raises(ValueError, match=wanted):
      dataclasses.replace(fits, **more).check_memory()
  with pytest.raises(ValueError, match=r"N=404 .*: N=400, 100 images, w"):
    dataclasses.replace(fits, images=101).check_memory()
  with pytest.raises(ValueError, match="not even two images would fit"):
    dataclasses.replace(fits, memory_limit_gib=1e-6).check_memory()


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
    setting = parse(one, Setting)
    assert type(setting.kernel) is setting_lib.KERNELS[arg]
    setting.kernels.check_memory()
    assert f":{arg}" in doc
  with pytest.raises(ValueError, match="unknown variant 'nonesuch'"):
    get_config("nonesuch")
  assert re.search(r"\(.* et al\., \d{4}", doc)
  for words in (f"--config=configs/{path.name}", "Cost", "Expected"):
    assert words in doc


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_keys_are_set_on_the_command_line(path):
  setting = load(
    f"{path}:rbf",
    ["--config.kernel.bandwidth=2.5", "--config.kernels.sweep_views=(2,3)"],
    Setting,
  )
  assert setting.kernel == setting_lib.MedianRBF(2.5)
  assert setting.kernels.sweep_views == (2, 3)
  with pytest.raises(ValueError, match='mean "views"'):
    load(f"{path}:rbf", ["--config.kernels.view=3"], Setting)
