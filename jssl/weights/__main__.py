"""`python -m jssl.weights COMMAND`: shows or converts a file of weights.

show PATH                         layout, model section and tensors of a file
convert IN.pth OUT.safetensors    makes safetensors of a file of PyTorch
"""

import functools
import pprint

from absl import app, flags, logging

from jssl.runtime import exit_codes, terminal
from jssl.weights import convert
from jssl.weights.folder import model_section
from jssl.weights.layouts import LAYOUTS
from jssl.weights.load import Published

_LAYOUT = flags.DEFINE_enum(
  "layout", None, list(LAYOUTS), "Layout of the file; default: recognised."
)
_NUM_HEADS = flags.DEFINE_integer(
  "num_heads",
  None,
  "Number of attention heads, if the file does not declare it.",
  lower_bound=1,
)


def _show(path: str) -> str:
  """Describes the layout, model and tensors of a file."""
  published = Published(path, layout=_LAYOUT.value, num_heads=_NUM_HEADS.value)
  section = pprint.pformat(model_section(published.model), sort_dicts=False)
  height, width, channels = published.image_shape
  return "\n".join(
    [
      f'"model": {section}',
      f"images: {height} x {width} px, {channels} channels",
      str(published.report),
    ]
  )


def main(argv: list[str]) -> int:
  """Prints the result of a command; returns the exit status."""
  terminal.make_output_safe()
  logging.set_verbosity(logging.WARNING)

  match argv[1:]:
    case ["show", path]:
      work = functools.partial(_show, path)
    case ["convert", source, target]:
      work = functools.partial(convert.convert, source, target)
    case arguments:
      raise app.UsageError(
        "expected `show PATH` or `convert IN.pth OUT.safetensors`, received "
        f"`{' '.join(arguments)}`"
      )
  return exit_codes.run_with_exit_code(
    lambda: print(work()), (ValueError, OSError, ImportError)
  )


if __name__ == "__main__":
  app.run(main)
