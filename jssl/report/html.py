"""Self-contained HTML pages from jinja2 templates."""

import functools
import json
from typing import Any

import jinja2

from jssl import __version__


@functools.cache
def _environment(package: str) -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.ChoiceLoader(
      [jinja2.PackageLoader(name) for name in (package, "jssl.report")]
    ),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["json"] = functools.partial(json.dumps, default=str)
  environment.globals["version"] = __version__
  return environment


def render(package: str, template: str, **values: Any) -> str:
  """Renders a template in the folder `templates` of a package.

  It may extend and import the shared templates of `jssl.report`. Strings are
  escaped, except `markupsafe.Markup` such as figures. A missing variable
  raises `jinja2.UndefinedError`.
  """
  return _environment(package).get_template(template).render(values)
