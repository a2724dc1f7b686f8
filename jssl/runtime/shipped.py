"""Config files that are installed with the package."""

import pathlib


def config_folder() -> pathlib.Path:
  """Returns the folder of the shipped configs, in a wheel or a checkout."""
  package = pathlib.Path(__file__).parents[1]
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


def configs() -> dict[str, pathlib.Path]:
  """Returns the shipped configs by name, such as `simclr_imagenet`."""
  return {path.stem: path for path in sorted(config_folder().glob("*.py"))}
