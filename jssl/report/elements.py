"""What a page is made of, as HTML."""

from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from jssl.report import charts


def missing(sentence: str) -> str:
  """Returns a paragraph of HTML in place of what isn't there."""
  return f'<p class="missing">{sentence}</p>'


def figure(content: str, caption: str) -> str:
  """Returns content with a caption, both HTML."""
  return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def plot(drawing: Figure, alt: str, caption: str) -> str:
  """Returns a drawing with a caption, which is plain text as `alt` is."""
  return figure(charts.as_svg(drawing, alt=alt), escape(caption))


def section(title: str, content: str) -> str:
  """Returns a section of the page; the title is plain text."""
  return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def facts(values: Mapping[str, str]) -> str:
  """Returns what is worth knowing, by name, in a row."""
  items = (
    f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    for name, value in values.items()
  )
  return f'<dl class="facts">{"".join(items)}</dl>'


def scores(
  title: str,
  headings: Sequence[str],
  rows: Mapping[str, Sequence[str]],
  *,
  last_stands_out: bool = True,
) -> str:
  """Returns a table of plain text, a row by its name."""
  kind = "scores last" if last_stands_out else "scores"
  head = "".join(f'<th scope="col">{escape(h)}</th>' for h in headings)
  body = ""
  for name, cells in rows.items():
    columns = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    body += f'<tr><th scope="row">{escape(name)}</th>{columns}</tr>\n'
  return (
    f'<table class="{kind}">\n<thead><tr><th scope="col">{escape(title)}'
    f"</th>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
  )
