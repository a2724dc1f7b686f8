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
  """Renders a template of a package.

  Strings are escaped, except `markupsafe.Markup` such as figures.

  Args:
    package: name of a package with a folder `templates`. Its templates may
      extend and import the shared ones of `jssl.report`.
    template: file name, for example "report.html.j2".
    **values: variables of the template. A variable that is missing raises
      `jinja2.UndefinedError`.

  Returns:
    The HTML text.
  """
  return _environment(package).get_template(template).render(values)
