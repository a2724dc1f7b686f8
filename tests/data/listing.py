"""The images that a manifest lists."""

import os
import pathlib
import tempfile

from jssl.data.layout import Layout
from jssl.data.manifest import Manifest


def list_source(source, *, labels=None, by_folder=True):
  """Returns {split: {class: paths}}, and a line for each other reason."""
  with tempfile.TemporaryDirectory() as folder:
    with Manifest(pathlib.Path(folder, "parts")) as manifest:
      layout = Layout(source, by_folder=by_folder and not labels)
      manifest.scan(layout, labels=labels, settings=None)
      splits = {}
      for path, split, label in manifest._rows(
        "select path, split, label from files order by path"
      ):
        classes = splits.setdefault(split, {})
        own = classes.setdefault(os.fsdecode(label), [])
        own.append(source / os.fsdecode(path))
      lines = manifest.describe_passed_over()
    return splits, [*lines, *filter(None, [layout.describe_links()])]


def list_splits(source, **options):
  return list_source(source, **options)[0]
