"""`jssl stats NAME`: mean and deviation of the pixels of a set.

Prints `mean` and `std` of each channel as lines of the `model` section of a
config. They are of pixels in [0, 1], see `jssl.pixels`.
"""

import sys

import numpy as np
from absl import app, flags

from jssl.data.open import open_source
from jssl.data.statistics import pixel_statistics
from jssl.runtime import files, terminal

_DATA_DIR = flags.DEFINE_string(
  "data_dir", "", "Directory of prepared sets; default: that of TFDS."
)
_SPLIT = flags.DEFINE_string("split", "train", "Split to measure.")
_IMAGE_SIZE_PX = flags.DEFINE_integer(
  "image_size_px", 32, "Side of the images, as in training.", lower_bound=1
)
_IMAGES = flags.DEFINE_integer(
  "images",
  10_000,
  "Number of images to measure, at equal distances in the set.",
  lower_bound=1,
)


def main(argv: list[str]) -> None:
  """Prints the statistics of the set that the command line names."""
  terminal.make_output_safe()
  if len(argv) != 2:
    raise app.UsageError("expected the name of a set")
  try:
    files.check_expanded("--data_dir", _DATA_DIR.value)
    source = open_source(
      argv[1],
      data_dir=_DATA_DIR.value,
      split=_SPLIT.value,
      image_size_px=_IMAGE_SIZE_PX.value,
    )
    found = pixel_statistics(source, images=_IMAGES.value)
  except (OSError, ValueError) as error:
    sys.exit(f"error: {error}")
  for name, values in found._asdict().items():
    print(f'"{name}": ({", ".join(f"{value:.4g}" for value in values)},),')
  if not found.std.all():
    constant = np.flatnonzero(found.std == 0).tolist()
    print(
      f"Channels {constant} are constant: model.std must be positive, such as "
      "1 for these.",
      file=sys.stderr,
    )


if __name__ == "__main__":
  app.run(main)
