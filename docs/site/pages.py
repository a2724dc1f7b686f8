"""Generates pages of the docs: methods, reference, notebook and changelog.

MkDocs calls `on_files` and `on_config`. Nothing of jssl is imported: the
sources are read as text and by their syntax trees.
"""

import ast
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

# MkDocs adds the folder of a hook to the search path.
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = pathlib.Path(__file__).parents[2]
_PACKAGE = _ROOT / "jssl"
_LIBRARIES = (
  "losses",
  "augment",
  "models",
  "objectives",
  "optim",
  "diagnostics",
  "kernel_regime",
  "weights",
)
_API = """# jssl.{name}

::: jssl.{name}
    options:
      show_root_heading: false
      show_root_toc_entry: false
"""
_METHOD = """# {title}

{about}

## Train

{commands}
{accuracy}## Settings

::: jssl.objectives.{module}.{cls}
    options:
      heading_level: 3
      inherited_members: false
      members: false

## Config

`jssl configs copy {config}` copies it for changes:

```python
{source}```
"""
_COMMANDS = """```bash
jssl prepare imagenet2012
jssl train --config={config} --workdir=W
jssl probe --workdir=W
```
"""
_SMALL = """
On two CPU cores, a small ViT takes minutes:

```bash
jssl prepare fashion_mnist
jssl train --config=fashion_mnist:{name} --workdir=W
jssl probe --workdir=W
```
"""
_ACCURACY = """## Accuracy of a short training

{table}

Test accuracy in % on Fashion-MNIST after half an epoch
(`--config.train.steps=117`); mean ± deviation over three pretraining seeds. All
[methods](../methods.md) have the same budget.

"""


def _modules(package: pathlib.Path) -> dict[str, str]:
  """Returns the module that each name of a package is imported from."""
  nodes = ast.parse((package / "__init__.py").read_text()).body
  return {
    alias.name: node.module.rpartition(".")[2]
    for node in nodes
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
  }


def _methods() -> dict[str, str]:
  """Returns the class of each method, by its name in a config."""
  tree = ast.parse((_PACKAGE / "objectives/__init__.py").read_text())
  # The module has one dict.
  table = next(node for node in ast.walk(tree) if isinstance(node, ast.Dict))
  return {
    ast.literal_eval(key): value.id
    for key, value in zip(table.keys, table.values, strict=True)
    if key is not None and isinstance(value, ast.Name)
  }


def _accuracy(name: str) -> str:
  """Returns the first table of methods.md with the rows that matter."""
  lines = (_ROOT / "docs/methods.md").read_text().splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith("|  |"))
  head, rows = lines[start : start + 2], lines[start + 2 :]
  baselines = [r for r in rows[:2] if r.startswith("| ra")]
  own = next((r for r in rows if r.startswith(f"| {name} |")), "")
  table = "\n".join([*head, *baselines, own])
  return _ACCURACY.format(table=table) if own else ""


def _method_page(name: str, cls: str, module: str) -> str:
  tree = ast.parse((_PACKAGE / f"objectives/{module}.py").read_text())
  about = ast.get_docstring(tree) or ""
  about = re.sub(
    r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", about
  )
  about = re.sub(r"docs/(studies/(\w+)\.md)", r"[\2](../\1)", about)
  config = "deit_imagenet" if name == "supervised" else f"{name}_imagenet"
  commands = _COMMANDS.format(config=config)
  if name != "supervised":
    commands += _SMALL.format(name=name)
  return _METHOD.format(
    title=re.split(r" learning|,| \(", about)[0],
    about=about,
    commands=commands,
    module=module,
    cls=cls,
    config=config,
    accuracy=_accuracy(name),
    source=(_ROOT / f"configs/{config}.py").read_text(),
  )


def _notebook() -> str:
  cells = json.loads((_ROOT / "docs/quickstart.ipynb").read_text())["cells"]
  texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
  return "\n\n".join(
    text if kind == "markdown" else f"```python\n{text}\n```"
    for text, kind in texts
  )


def _pages() -> Iterator[tuple[str, str]]:
  """Yields path and Markdown of each generated page."""
  modules = _modules(_PACKAGE / "objectives")
  for name, cls in _methods().items():
    yield f"methods/{name}.md", _method_page(name, cls, modules[cls])
  yield "reference/config.md", reference.config_page(list(_methods()))
  yield "reference/commands.md", reference.commands_page()
  for name in _LIBRARIES:
    yield f"api/{name}.md", _API.format(name=name)
  yield "notebook.md", _notebook()
  yield "changelog.md", (_PACKAGE / "CHANGELOG.md").read_text()


def _expand(nav: Any, pages: list[str]) -> Any:
  """Replaces entries that end with a slash by the generated pages below."""
  if isinstance(nav, dict):
    return {key: _expand(value, pages) for key, value in nav.items()}
  if not isinstance(nav, list):
    return nav
  entries = []
  for entry in nav:
    if isinstance(entry, str) and entry.endswith("/"):
      entries += [page for page in pages if page.startswith(entry)]
    else:
      entries.append(_expand(entry, pages))
  return entries


def on_config(config: MkDocsConfig) -> MkDocsConfig:
  """Completes the navigation."""
  config.nav = _expand(config.nav, [path for path, _ in _pages()])
  return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the generated pages."""
  for path, content in _pages():
    files.append(File.generated(config, path, content=content))
  return files
