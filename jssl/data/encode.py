"""What our builders of sets give to TFDS: images encoded without TensorFlow."""

import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

Examples = Iterator[tuple[int | str, dict[str, Any]]]


def png(image: Image.Image) -> bytes:
  """Returns the image as a PNG file."""
  file = io.BytesIO()
  image.save(file, "PNG")
  return file.getvalue()
