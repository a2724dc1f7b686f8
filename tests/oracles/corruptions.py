"""The authors' corruptions in float64, as loops over pixels or by SciPy.

Images are [h, w, c] with values in [0, 1]. Random numbers are arguments, in the
layout of `jssl.augment.corruptions`; `c` are the published parameters.
Results are not clipped.
"""

import colorsys
import math

import numpy as np
from scipy import ndimage


def _clip(i, size):
  return min(max(i, 0), size - 1)


def _mirror(i, size):
  while not 0 <= i < size:
    i = -i if i < 0 else 2 * (size - 1) - i
  return i


def _reflect(i, size):
  while not 0 <= i < size:
    i = -i - 1 if i < 0 else 2 * size - 1 - i
  return i


def _each(image, function):
  """Returns function(y, x) for each pixel."""
  result = np.empty(image.shape)
  for y, x in np.ndindex(*image.shape[:2]):
    result[y, x] = function(y, x)
  return result


def _gaussian(image, sigma):
  """Blurs as the authors do, by SciPy."""
  return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _zoom(image, factor):
  """The authors' `clipped_zoom`."""
  height, width, _ = image.shape
  ch, cw = math.ceil(height / factor), math.ceil(width / factor)
  top, left = (height - ch) // 2, (width - cw) // 2
  crop = image[top : top + ch, left : left + cw]
  zoomed = ndimage.zoom(crop, (factor, factor, 1), order=1)
  y, x = (zoomed.shape[0] - height) // 2, (zoomed.shape[1] - width) // 2
  return zoomed[y : y + height, x : x + width]


def _bilinear(image, y, x, border):
  height, width, _ = image.shape
  top, left = math.floor(y), math.floor(x)
  value = 0.0
  for i in (0, 1):
    for j in (0, 1):
      weight = (1 - abs(y - top - i)) * (1 - abs(x - left - j))
      pixel = image[border(top + i, height), border(left + j, width)]
      value = value + weight * pixel
  return value


def _motion(image, angle, radius, sigma):
  width = 2 * radius + 1
  taps = [math.exp(-i * i / (2 * sigma**2)) for i in range(width)]
  sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
  offsets = [
    (math.ceil(i * sine - 0.5), math.ceil(i * cosine - 0.5))
    for i in range(width)
  ]

  def blurred(y, x):
    return sum(
      tap
      / sum(taps)
      * image[_clip(y + dy, len(image)), _clip(x + dx, image.shape[1])]
      for tap, (dy, dx) in zip(taps, offsets, strict=True)
    )

  return _each(image, blurred)


def _gray(pixel):
  if len(pixel) == 1:
    return pixel[0]
  return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def gaussian_noise(image, normal, c):
  return _each(image, lambda y, x: image[y, x] + c * normal[y, x])


def shot_noise(image, counts, c):
  return _each(image, lambda y, x: counts[y, x] / c)


def impulse_noise(image, uniform, c):
  def value(old, replaced, salt):
    if replaced > c:
      return old
    return 1.0 if salt <= 0.5 else 0.0

  def pixel(y, x):
    return [value(*z) for z in zip(image[y, x], *uniform[:, y, x], strict=True)]

  return _each(image, pixel)


def defocus_blur(image, draws, c):
  radius, sigma = c
  half, smoothing = (8, 1) if radius <= 8 else (radius, 2)
  side = range(-half, half + 1)
  disk = [[float(x * x + y * y <= radius**2) for x in side] for y in side]
  disk = np.array(disk)[..., None] / np.sum(disk)
  taps = [
    math.exp(-(i**2) / (2 * sigma**2)) for i in range(-smoothing, smoothing + 1)
  ]
  kernel = _each(
    disk,
    lambda y, x: sum(
      taps[i]
      * taps[j]
      / sum(taps) ** 2
      * disk[
        _mirror(y + i - smoothing, len(disk)),
        _mirror(x + j - smoothing, len(disk)),
      ]
      for i in range(len(taps))
      for j in range(len(taps))
    ),
  )
  height, width, _ = image.shape
  return _each(
    image,
    lambda y, x: sum(
      kernel[i + half, j + half]
      * image[_mirror(y + i, height), _mirror(x + j, width)]
      for i in side
      for j in side
    ),
  )


def glass_blur(image, offsets, c):
  sigma, distance, rounds = c
  image = _gaussian(image, sigma)
  height, width, _ = image.shape
  for i in range(rounds):
    for y in range(height - distance, distance, -1):
      for x in range(width - distance, distance, -1):
        dy, dx = offsets[i, :, y, x]
        # A copy: see `jssl.augment.corruptions.lens.glass_blur`.
        image[y, x] = image[y + dy, x + dx]
  return _gaussian(image, sigma)


def motion_blur(image, angle, c):
  return _motion(image, angle, *c)


def zoom_blur(image, draws, c):
  factors = np.arange(*c)
  total = image.copy()
  for factor in factors:
    total += _zoom(image, factor)
  return total / (len(factors) + 1)


def snow(image, flakes, c):
  normal, angle = flakes
  layer = _zoom((c[0] + c[1] * normal)[..., None], c[2])
  layer = _each(
    layer, lambda y, x: 0 if layer[y, x] < c[3] else min(layer[y, x, 0], 1)
  )
  layer = _motion(layer, angle, c[4], c[5])

  def pixel(y, x):
    white = np.maximum(image[y, x], _gray(image[y, x]) * 1.5 + 0.5)
    mixed = c[6] * image[y, x] + (1 - c[6]) * white
    return mixed + layer[y, x] + layer[-1 - y, -1 - x]

  return _each(image, pixel)


def _plasma(displacements, side, decay):
  """Diamond-square, in place on one map, as the authors do."""
  grid = np.zeros((side, side))
  step, scale, used = side, 100.0, 0

  def moved():
    nonlocal used
    used += 1
    return scale * scale * displacements[used - 1]

  while step >= 2:
    half = step // 2
    corners = range(0, side, step)
    for y in corners:
      for x in corners:
        down, right = (y + step) % side, (x + step) % side
        total = grid[y, x] + grid[down, x] + grid[y, right] + grid[down, right]
        grid[y + half, x + half] = total / 4 + moved()
    for y in corners:
      for x in corners:
        around = grid[y, x] + grid[y, (x + step) % side]
        around += grid[y + half, x + half] + grid[y - half, x + half]
        grid[y, x + half] = around / 4 + moved()
    for y in corners:
      for x in corners:
        around = grid[y, x] + grid[(y + step) % side, x]
        around += grid[y + half, x + half] + grid[y + half, x - half]
        grid[y + half, x] = around / 4 + moved()
    step, scale = half, scale / decay
  assert used == len(displacements)
  grid -= grid.min()
  return grid / grid.max()


def _side(image):
  side = 1
  while side < max(image.shape[:2]):
    side *= 2
  return side


def fog(image, draws, c):
  cloud, largest = _plasma(draws, _side(image), c[1]), image.max()
  return _each(
    image,
    lambda y, x: (
      (image[y, x] + c[0] * cloud[y, x]) * largest / (largest + c[0])
    ),
  )


def frost(image, draws, c):
  plasma = _plasma(draws, _side(image), 1.5)
  colour = np.array([0.85, 0.95, 1.0])
  if image.shape[2] == 1:
    colour = np.array([_gray(colour)])

  def pixel(y, x):
    ice = 0.4 + 0.5 * (1 - abs(2 * plasma[y, x] - 1))
    return c[0] * image[y, x] + c[1] * ice * colour

  return _each(image, pixel)


def brightness(image, draws, c):
  def pixel(y, x):
    if image.shape[2] == 1:
      return min(image[y, x, 0] + c, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*image[y, x])
    return colorsys.hsv_to_rgb(hue, saturation, min(value + c, 1))

  return _each(image, pixel)


def contrast(image, draws, c):
  total = 0.0
  for y, x in np.ndindex(*image.shape[:2]):
    total = total + image[y, x]
  mean = total / (image.shape[0] * image.shape[1])
  return _each(image, lambda y, x: (image[y, x] - mean) * c + mean)


def elastic_transform(image, warp, c):
  corners, pixels = warp
  height, width, _ = image.shape
  length, smoothing, shift = (share * min(height, width) for share in c)
  side, cx, cy = min(height, width) // 3, width // 2, height // 2
  before = np.array(
    [[cx + side, cy + side], [cx + side, cy - side], [cx - side, cy - side]]
  )
  after = before + shift * corners
  # The six numbers of the map from positions after to those before.
  system = np.concatenate([after, np.ones((3, 1))], 1)
  to_x, to_y = np.linalg.solve(system, before).T

  def affine(y, x):
    position = np.array([x, y, 1.0])
    return _bilinear(image, to_y @ position, to_x @ position, _mirror)

  moved = _each(image, affine)
  dx, dy = (
    length * ndimage.gaussian_filter(p, smoothing, mode="reflect", truncate=3)
    for p in pixels
  )
  return _each(
    image,
    lambda y, x: _bilinear(moved, y + dy[y, x], x + dx[y, x], _reflect),
  )


def _box(image, height, width):
  """Pillow's BOX filter: its bounds, weights and rounding of centres."""

  def resize(values, out_px):
    scale, result = len(values) / out_px, []
    wide = max(scale, 1.0)
    for i in range(out_px):
      center = (i + 0.5) * scale
      first = max(int(center - wide / 2 + 0.5), 0)
      last = min(int(center + wide / 2 + 0.5), len(values))
      inside = [
        values[j]
        for j in range(first, last)
        if -0.5 < (j - center + 0.5) / wide <= 0.5
      ]
      result.append(sum(inside) / len(inside))
    return np.array(result)

  rows = resize(image, height)
  return resize(rows.swapaxes(0, 1), width).swapaxes(0, 1)


def pixelate(image, draws, c):
  height, width, _ = image.shape
  return _box(_box(image, int(height * c), int(width * c)), height, width)


LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55
  14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77
  24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101
  72 92 95 98 112 100 103 99"""
CHROMA = (
  """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99
  24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99"""
  + 32 * " 99"
)


def _steps(table, quality):
  percent = 5000 // quality if quality < 50 else 200 - 2 * quality
  steps = [(int(s) * percent + 50) // 100 for s in table.split()]
  return [min(max(s, 1), 255) for s in steps]


def _dct(block, inverse=False):
  result = np.zeros((8, 8))
  for u, v, y, x in np.ndindex(8, 8, 8, 8):
    scale = math.sqrt(0.5) ** ((u == 0) + (v == 0)) / 4
    wave = math.cos((2 * y + 1) * u * math.pi / 16)
    wave *= math.cos((2 * x + 1) * v * math.pi / 16)
    if inverse:
      result[y, x] += scale * wave * block[u, v]
    else:
      result[u, v] += scale * wave * block[y, x]
  return result


def _code(plane, steps):
  height, width = plane.shape
  steps = np.array(steps).reshape(8, 8)
  result = np.zeros((height + 8, width + 8))
  for top in range(0, height, 8):
    for left in range(0, width, 8):
      block = np.empty((8, 8))
      for y, x in np.ndindex(8, 8):
        row, column = _clip(top + y, height), _clip(left + x, width)
        block[y, x] = plane[row, column] - 128
      coded = np.round(_dct(block) / steps) * steps
      decoded = _dct(coded, inverse=True) + 128
      result[top : top + 8, left : left + 8] = decoded
  return result[:height, :width]


def jpeg_compression(image, draws, c):
  pixels = np.round(255 * image)
  height, width, channels = image.shape
  if channels == 1:
    return _code(pixels[..., 0], _steps(LUMA, c))[..., None] / 255
  red, green, blue = np.moveaxis(pixels, 2, 0)
  luma = _code(0.299 * red + 0.587 * green + 0.114 * blue, _steps(LUMA, c))
  found = []
  for chroma in (
    -0.168735892 * red - 0.331264108 * green + 0.5 * blue + 128,
    0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128,
  ):
    half = np.empty((-(-height // 2), -(-width // 2)))
    for y, x in np.ndindex(*half.shape):
      half[y, x] = np.mean(
        [
          chroma[_clip(2 * y + i, height), _clip(2 * x + j, width)]
          for i in (0, 1)
          for j in (0, 1)
        ]
      )
    half = _code(half, _steps(CHROMA, c))
    whole = np.empty((height, width))
    for y, x in np.ndindex(height, width):
      # Three quarters of the pixel above, one of the other neighbour.
      above, beside = y // 2, x // 2
      other = (
        _clip(above + 2 * (y % 2) - 1, len(half)),
        _clip(beside + 2 * (x % 2) - 1, half.shape[1]),
      )
      whole[y, x] = (
        9 * half[above, beside]
        + 3 * half[above, other[1]]
        + 3 * half[other[0], beside]
        + half[other]
      ) / 16
    found.append(whole - 128)
  cb, cr = found
  decoded = [
    luma + 1.402 * cr,
    luma - 0.344136 * cb - 0.714136 * cr,
    luma + 1.772 * cb,
  ]
  return np.stack(decoded, -1) / 255
