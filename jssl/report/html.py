"""Self-contained HTML pages from jinja2 templates."""

import functools
import json
import re
from typing import Any

import jinja2

from jssl import __version__
from jssl.report import charts

# Colours of figures as variables of the style sheet, which has dark ones.
_VARIABLES = {
  charts.INK: "ink",
  charts.MUTED: "muted",
  charts.LINE: "line",
  charts.GRID: "grid",
  charts.BLUE: "blue",
  charts.RED: "red",
  charts.GREEN: "green",
  "#ffffff": "card",
}
_COLOUR = re.compile(rf"(?<=: )({'|'.join(_VARIABLES)})\b")


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
  text = _environment(package).get_template(template).render(values)
  return re.sub(
    r"<svg.*?</svg>",
    lambda svg: _COLOUR.sub(
      lambda colour: f"var(--{_VARIABLES[colour[0]]}, {colour[0]})", svg[0]
    ),
    text,
    flags=re.DOTALL,
  )
