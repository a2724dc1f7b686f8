"""Torchvision's operations as float64 loops over the pixels of one image.

Images are [h, w, c] with values in [0, 1].
"""

import colorsys
import math

import numpy as np


def resize_axis(values, out_px):
  """Antialiased bilinear resize of a 1-D sequence (Pillow's BILINEAR)."""
  scale = len(values) / out_px
  support = max(scale, 1.0)
  result = []
  for i in range(out_px):
    center = (i + 0.5) * scale
    total = weights = 0.0
    for j, value in enumerate(values):
      weight = max(0.0, 1 - abs(j + 0.5 - center) / support)
      total += weight * value
      weights += weight
    result.append(total / weights)
  return np.array(result)


def resize(image, height, width):
  rows = np.empty((image.shape[0], width, image.shape[2]))
  for y in range(image.shape[0]):
    for c in range(image.shape[2]):
      rows[y, :, c] = resize_axis(image[y, :, c], width)
  result = np.empty((height, width, image.shape[2]))
  for x in range(width):
    for c in range(image.shape[2]):
      result[:, x, c] = resize_axis(rows[:, x, c], height)
  return result


def crop_and_resize(image, top, left, height, width, size, flip):
  result = resize(image[top : top + height, left : left + width], size, size)
  return result[:, ::-1] if flip else result


def center_crop(image, size, share=0.875):
  height, width, _ = image.shape
  short = min(height, width)
  target = size
  if short > size:
    target = min(short, round(size / share))
  image = resize(image, height * target // short, width * target // short)
  top, left = (n - size for n in image.shape[:2])
  return image[top // 2 :, left // 2 :][:size, :size]


def gray(pixel):
  if len(pixel) == 1:
    return float(pixel[0])
  return 0.2989 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def _each_pixel(image, function):
  result = np.empty(image.shape)
  for y in range(image.shape[0]):
    for x in range(image.shape[1]):
      result[y, x] = function(image[y, x])
  return result


def grayscale(image):
  return _each_pixel(image, gray)


def _mix(value, other, factor):
  return min(1.0, max(0.0, factor * value + (1 - factor) * other))


def brightness(image, factor):
  return _each_pixel(image, lambda p: [_mix(v, 0.0, factor) for v in p])


def contrast(image, factor):
  total = 0.0
  for row in image:
    for pixel in row:
      total += gray(pixel)
  mean = total / (image.shape[0] * image.shape[1])
  return _each_pixel(image, lambda p: [_mix(v, mean, factor) for v in p])


def saturation(image, factor):
  return _each_pixel(image, lambda p: [_mix(v, gray(p), factor) for v in p])


def hue(image, shift):
  def turn(pixel):
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)

  return _each_pixel(image, turn)


COLOUR = {
  "brightness": brightness,
  "contrast": contrast,
  "saturation": saturation,
  "hue": hue,
}


def gaussian_blur(image, kernel_px, sigma):
  half = (kernel_px - 1) / 2
  offsets = [i - half for i in range(kernel_px)]
  taps = [math.exp(-0.5 * (x / sigma) ** 2) for x in offsets]
  taps = [t / sum(taps) for t in taps]
  height, width, channels = image.shape

  def reflect(i, n):
    i = abs(i)
    return 2 * (n - 1) - i if i >= n else i

  result = np.zeros(image.shape)
  for y in range(height):
    for x in range(width):
      for c in range(channels):
        for i, over_height in enumerate(taps):
          for j, over_width in enumerate(taps):
            row = reflect(y + i - kernel_px // 2, height)
            column = reflect(x + j - kernel_px // 2, width)
            pixel = image[row, column, c]
            result[y, x, c] += over_height * over_width * pixel
  return result


def solarize(image, threshold):
  return _each_pixel(
    image, lambda p: [1 - v if v >= threshold else v for v in p]
  )


def crop_box(draw, height, width, scale, ratio):
  """RandomResizedCrop.get_params; `draw` is a NumPy random Generator."""
  for _ in range(10):
    area = height * width * draw.uniform(*scale)
    aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w = round(math.sqrt(area * aspect))
    h = round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      top = draw.integers(0, height - h + 1)
      left = draw.integers(0, width - w + 1)
      return top, left, h, w
  in_ratio = width / height
  h, w = height, width
  if in_ratio < ratio[0]:
    h = round(width / ratio[0])
  elif in_ratio > ratio[1]:
    w = round(height * ratio[1])
  return (height - h) // 2, (width - w) // 2, h, w
