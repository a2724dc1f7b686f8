"""Griffe extension for docstrings: `Example` is the section `Examples`."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
  """Renames the section, whose singular Griffe takes for an admonition."""

  def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Renames the section of one docstring."""
    del kwargs
    if obj.docstring:
      text = obj.docstring.value
      obj.docstring.value = re.sub("(?m)^Example:$", "Examples:", text)
