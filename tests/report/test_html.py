"""Pages from templates: shared elements, escaping, missing values."""

import jinja2
import pytest
from markupsafe import Markup

from jssl.report import html

PAGE = """
{% extends "base.html.j2" %}
{% import "macros.html.j2" as page %}
{% block body %}
{% call page.section("A <section>") %}
{{ page.figure(page.table(["", "x"], [["a", "<1>"], ["b", "2"]], true), "c") }}
{{ page.figure(drawing) }}
{{ page.missing("No <probe>.") }}
{% endcall %}
{{ page.config(config) }}
{% endblock %}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
  folder = tmp_path / "some_pages"
  (folder / "templates").mkdir(parents=True)
  (folder / "__init__.py").touch()
  (folder / "templates" / "page.html.j2").write_text(PAGE)
  monkeypatch.syspath_prepend(str(tmp_path))
  return "some_pages"


VALUES = {
  "title": "T & U",
  "facts": {"steps": "1 < 2"},
  "footer": "here",
  "drawing": Markup("<svg></svg>"),
  "config": {"seed": 3, "data": {"name": "<set>", "sizes": (1, 2)}},
}


def test_a_page_has_the_shared_elements_and_escapes_what_is_not_markup(package):
  text = html.render(package, "page.html.j2", **VALUES)
  for part in (
    "<title>T &amp; U</title>",
    "<dt>steps</dt><dd>1 &lt; 2</dd>",
    "<h2>A &lt;section&gt;</h2>",
    '<table class="scores last">',
    '<th scope="row">a</th><td>&lt;1&gt;</td>',
    "<figcaption>c</figcaption>",
    "><svg></svg></div>",
    "No &lt;probe&gt;.",
    "<h3>data</h3>",
    "&#34;&lt;set&gt;&#34;",
    "<h3>run</h3>",
    "[1, 2]",
    ", here</footer>",
  ):
    assert part in text
  assert "http" not in text
  assert "<set>" not in text


def test_a_missing_variable_is_an_error(package):
  values = {k: v for k, v in VALUES.items() if k != "drawing"}
  with pytest.raises(jinja2.UndefinedError, match="drawing"):
    html.render(package, "page.html.j2", **values)
