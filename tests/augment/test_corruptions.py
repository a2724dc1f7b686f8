import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import corruptions as oracle
from PIL import Image as PillowImage
from scipy import stats
from sklearn.datasets import load_digits, load_sample_image

from jssl import mesh
from jssl.augment import CORRUPTIONS, center_view, corrupt, corruptions
from jssl.augment.corruptions import SEVERITIES, parameters


def photographs(size):
  """Squares from three places of scikit-learn's two photographs."""
  found = []
  for name in ("china.jpg", "flower.jpg"):
    photograph = load_sample_image(name)
    for left in (0, 213):
      square = photograph[None, :, left : left + 427]
      found.append(center_view(square, crop_size_px=size)[0])
  return np.stack(found)


@pytest.fixture(scope="module")
def small():
  return np.asarray(photographs(32))


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


# Images of colours with one table and gray ones with the other, at sizes that
# are no multiple of 8, odd and not square.
@pytest.mark.parametrize(
  ("table", "severity", "shape"),
  [("CIFAR_10_C", 5, (21, 26, 3)), ("IMAGENET_C", 3, (25, 19, 1))],
)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_equals_the_loops(x64, name, table, severity, shape):
  c = getattr(parameters, table)[name][severity - 1]
  corruption = CORRUPTIONS[name]
  image = np.random.default_rng(0).random(shape)
  image[:3, :3] = 0  # Black pixels have no hue.
  draws = corruption.draw(jax.random.key(severity), image, c)
  got = jax.jit(lambda image, draws: corruption.apply(image, draws, c))(
    image, draws
  )
  want = getattr(oracle, name)(image, jax.tree.map(np.asarray, draws), c)
  assert got.dtype == jnp.float64
  # The inverse colour matrix of JFIF has six digits.
  tolerance = 1e-6 if name == "jpeg_compression" else 1e-11
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def psnr(a, b):
  error = np.mean((np.asarray(a) - b) ** 2, (1, 2, 3))
  return float(np.mean(10 * np.log10(1 / error)))


def severities(images, name):
  run = jax.jit(corrupt, static_argnums=(0, 1))
  found = []
  for severity in SEVERITIES:
    got = np.asarray(run(name, severity, keys(len(images)), images))
    assert got.dtype == np.float32
    assert got.min() >= 0
    assert got.max() <= 1
    found.append(psnr(got, images))
  return found


# Severities from the best to the worst image, where the published parameters do
# not worsen images in the order 1 to 5: larger shifts of the affine map come
# first, glass has rounds beside a blur, and frost darkens the image.
SMALL_ORDER = {
  "elastic_transform": (5, 4, 3, 2, 1),
  "glass_blur": (3, 2, 1, 5, 4),
  "frost": (1, 2, 4, 5, 3),
}
LARGE_ORDER = {
  "elastic_transform": (3, 4, 5, 1, 2),
  "glass_blur": (2, 1, 4, 3, 5),
  "frost": (1, 2, 4, 3, 5),
}


def check_order(found, order):
  ordered = [found[severity - 1] for severity in order]
  assert np.all(np.diff(ordered) < 0.05), found
  assert ordered[-1] < ordered[0] - 2, found


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_are_worse_at_each_severity(small, name):
  check_order(severities(small, name), SMALL_ORDER.get(name, SEVERITIES))


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_images_are_worse_at_each_severity(name):
  found = severities(photographs(224), name)
  check_order(found, LARGE_ORDER.get(name, SEVERITIES))


@pytest.mark.slow
def test_one_image_equals_a_batch_on_eight_devices():
  """All corruptions in one program; each image differs in its numbers."""

  def everything(keys, images):
    return jnp.stack([corrupt(name, 3, keys, images) for name in CORRUPTIONS])

  images = np.tile(load_digits().images[:1, ..., None] / 16, (8, 2, 2, 1))
  images = images.astype(np.float32)
  by_row = NamedSharding(mesh.make_mesh(4, 2), P(mesh.AXES))
  run = jax.jit(everything)
  batch = np.asarray(run(*jax.device_put((keys(8), images), by_row)))
  alone = run(keys(8)[5:6], images[5:6])
  np.testing.assert_allclose(alone[:, 0], batch[:, 5], atol=1e-5)
  assert batch.min() >= 0
  assert batch.max() <= 1
  for name, of_one in zip(CORRUPTIONS, batch, strict=True):
    same = np.array_equal(of_one[0], of_one[1])
    deterministic = CORRUPTIONS[name].draw is corruptions.draw_nothing
    assert same == deterministic, name
    assert psnr(of_one, images) < 40, name


@pytest.mark.parametrize(("quality", "bound"), [(80, 41), (25, 39), (7, 33)])
def test_jpeg_is_that_of_pillow(small, quality, bound):
  for image in (small[0], small[2], small[1][..., :1], small[3][:27, :25]):
    pixels = np.round(255 * image).astype(np.uint8)
    file = io.BytesIO()
    PillowImage.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality)
    want = np.asarray(PillowImage.open(file)).reshape(image.shape) / 255
    got = CORRUPTIONS["jpeg_compression"].apply(
      jnp.asarray(pixels / 255, jnp.float32), (), quality
    )
    # Rounding flips few coefficients, each of them over a block.
    assert psnr(got.clip(0, 1)[None], want[None]) > bound
    assert np.median(abs(got.clip(0, 1) - want)) < 1.5 / 255


@pytest.mark.parametrize("share", [0.95, 0.65, 0.3])
def test_pixels_are_those_of_pillow(small, share):
  for image in (small[0][..., 0], small[1][:27, :25, 1]):
    want = PillowImage.fromarray(image)
    sizes = [int(n * share) for n in want.size], want.size
    for size in sizes:
      want = want.resize(size, PillowImage.Resampling.BOX)
    got = CORRUPTIONS["pixelate"].apply(image[..., None], (), share)
    np.testing.assert_allclose(got[..., 0], want, atol=1e-6)


def test_random_numbers_have_their_distributions():
  key, image = jax.random.key(1), jnp.full((100, 100, 1), 0.3)

  def draw(name, c):
    return jax.tree.map(np.asarray, CORRUPTIONS[name].draw(key, image, c))

  counts = draw("shot_noise", 50).ravel()
  seen = np.bincount(counts, minlength=40)[5:27]
  expected = stats.poisson(15).pmf(np.arange(5, 27)) * counts.size
  others = counts.size - seen.sum(), counts.size - expected.sum()
  chi2 = stats.chisquare([*seen, others[0]], [*expected, others[1]])
  assert chi2.pvalue > 1e-3
  normal = draw("gaussian_noise", 0.1).ravel()
  assert stats.kstest(normal, stats.norm.cdf).pvalue > 1e-3
  offsets = draw("glass_blur", (1.0, 2, 3))
  seen = [np.sum(offsets == i) for i in (-2, -1, 0, 1)]
  assert sum(seen) == 60000
  assert stats.chisquare(seen).pvalue > 1e-3
  for name, low, high in (("motion_blur", -45, 45), ("snow", -135, -45)):
    c = parameters.CIFAR_10_C[name][0]
    angles = jax.vmap(lambda k, n=name, c=c: CORRUPTIONS[n].draw(k, image, c))(
      keys(500)
    )
    angles = angles.angle if name == "snow" else angles
    uniform = stats.uniform(low, high - low)
    assert stats.kstest(np.asarray(angles), uniform.cdf).pvalue > 1e-3
  impulses = CORRUPTIONS["impulse_noise"].apply(
    image, draw("impulse_noise", 0.2), 0.2
  )
  for value in (0, 1):
    count = int(np.sum(np.asarray(impulses) == value))
    assert stats.binomtest(count, 10000, 0.1).pvalue > 1e-3


def test_parameters_are_chosen_by_size():
  def photons(height, width):
    return parameters.of("shot_noise", 1, height=height, width=width)

  assert photons(28, 28) == photons(84, 200) == 500
  assert photons(85, 85) == photons(224, 300) == 60
  tables = parameters.CIFAR_10_C, parameters.IMAGENET_C
  for table in tables:
    assert [*table] == [*CORRUPTIONS]
    assert {len(values) for values in table.values()} == {5}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("changes", "error", "match"),
  [
    ({"name": "gausian_noise"}, ValueError, "did you mean 'gaussian_noise'"),
    ({"name": "?"}, ValueError, "known: gaussian_noise, shot_noise"),
    ({"severity": 0}, ValueError, "severity=0: expected 1, 2, 3, 4 or 5"),
    ({"severity": 6}, ValueError, "severity=6"),
    ({"severity": "2"}, ValueError, "severity='2'"),
    ({"images": np.zeros((2, 9, 9, 3), np.uint8)}, TypeError, "divide uint8"),
    ({"images": np.zeros((2, 9, 9, 4))}, ValueError, "c of 1 or 3"),
    ({"images": np.zeros((2, 9, 9))}, ValueError, r"\[2, 9, 9\]: expected"),
    ({"images": np.zeros((2, 7, 9, 1))}, ValueError, "at least 8"),
    ({"images": np.zeros((3, 9, 9, 1))}, ValueError, "one key per image"),
    ({"images": np.full((2, 9, 9, 1), 2.0)}, ValueError, "from 2 to 2: exp"),
    ({"images": np.full((2, 9, 9, 1), np.nan)}, ValueError, "from nan to nan"),
  ],
)
def test_bad_arguments_are_named(changes, error, match):
  arguments = {
    "name": "fog",
    "severity": 1,
    "keys": keys(2),
    "images": np.zeros((2, 9, 9, 3), np.float32),
    **changes,
  }
  with pytest.raises(error, match=match):
    corrupt(**arguments)
