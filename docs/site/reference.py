"""Reference pages: keys of a config and flags of the commands, from sources."""

import ast
import pathlib
import re
from collections.abc import Iterator

_PACKAGE = pathlib.Path(__file__).parents[2] / "jssl"
_SECTIONS = {
  "data": ("config/schema.py", "Data"),
  "augment": ("augment/views.py", "Augment"),
  "model, name `vit`": ("models/vit.py", "ViT"),
  "model, name `resnet`": ("models/resnet.py", "ResNet"),
  "head": ("optim/bilevel.py", "HeadStrategy"),
  "optim": ("optim/chain.py", "Optim"),
  "order": ("data/order.py", "Order"),
  "train": ("config/schema.py", "Train"),
  "checkpoint": ("config/schema.py", "Checkpoint"),
  "log": ("config/schema.py", "Log"),
  "mesh": ("config/schema.py", "Mesh"),
  "init_from": ("config/schema.py", "InitFrom"),
  "probe": ("config/schema.py", "Probe"),
}
_CONFIG = """# Config keys

Each key is a flag of `jssl train` as well: `--config.data.batch_size=256`. Keys
without a default must be in the config; `jssl configs copy NAME` copies one.

- `seed: int = 0`: seed of initialisation, order of examples and augmentation.
- `model.name`: "vit" or "resnet", each with its own keys.
- `model.preset`: a common size or published model, such as "vit_s16".
- `objective.name`: the method. Its page has the keys: {methods}.
"""
_COMMANDS = """# Commands

`jssl COMMAND --help` prints the same, `jssl bench NAME --help` the flags of a
benchmark. `jssl COMMAND` is `python -m MODULE`. Values of a config are Python
literals: `--config.probe.probes="('linear', 'knn')"`.

Besides those below, `jssl configs` lists the shipped configs, `jssl configs
copy NAME [FOLDER]` copies one, and `python -m jssl.runtime.status WORKDIR`
prints the state of a run and its last checkpoint.
"""


def _attributes(node: ast.ClassDef) -> dict[str, str]:
  """Returns the text of each entry of `Attributes` in a docstring."""
  _, _, section = (ast.get_docstring(node) or "").partition("\nAttributes:\n")
  found = re.findall(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", section, re.M)
  return {
    name: re.sub(r"\s+", " ", text)
    for names, text in found
    for name in names.split(", ")
  }


def _aliases(*trees: ast.Module) -> dict[str, str]:
  """Returns the names of types that modules define, and what they are."""
  return {
    target.id: ast.unparse(node.value)
    for tree in trees
    for node in tree.body
    if isinstance(node, ast.Assign)
    for target in node.targets
    if isinstance(target, ast.Name)
  }


def _keys(
  section: str, node: ast.ClassDef, aliases: dict[str, str]
) -> Iterator[str]:
  about = _attributes(node)
  for field in node.body:
    if isinstance(field, ast.AnnAssign):
      name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
      if not kind.startswith("ClassVar"):
        default = f" = {ast.unparse(field.value)}" if field.value else ""
        key = f"{section}.{name}: {aliases.get(kind, kind)}{default}"
        yield f"- `{key}`: {about[name]}\n"


def config_page(methods: list[str]) -> str:
  """Returns the page of config keys; KeyError for one without a docstring."""
  links = ", ".join(f"[{name}](../methods/{name}.md)" for name in methods)
  parts = [_CONFIG.format(methods=links)]
  shared = [
    ast.parse(path.read_text())
    for path in (_PACKAGE / "typing.py", *_PACKAGE.glob("models/*.py"))
  ]
  for section, (path, name) in _SECTIONS.items():
    tree = ast.parse((_PACKAGE / path).read_text())
    node = next(
      n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name
    )
    keys = _keys(section.partition(",")[0], node, _aliases(*shared, tree))
    parts.append(f"## {section}\n\n{''.join(keys)}")
  return "\n".join(parts)


def _flags(tree: ast.Module) -> Iterator[str]:
  for node in ast.walk(tree):
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Call) and name.startswith("flags.DEFINE_"):
      flag, default, *choices, about = map(ast.unparse, node.args)
      text = ast.literal_eval(about)
      told = default in ("None", "''", "[]", "False") or "default:" in text
      shown = "" if told else f" = {default}"
      # Flags that are True are switched off.
      no = "[no]" if default == "True" else ""
      # Other choices are computed, and named in the text.
      values = "".join(f" One of {one}." for one in choices if "[" in one)
      yield f"- `--{no}{ast.literal_eval(flag)}{shown}`: {text}{values}\n"


def commands_page() -> str:
  """Returns the page of commands and their flags."""
  tree = ast.parse((_PACKAGE / "__main__.py").read_text())
  table = next(node for node in ast.walk(tree) if isinstance(node, ast.Dict))
  parts = [_COMMANDS]
  for command, (module, about) in ast.literal_eval(table).items():
    path = _PACKAGE.parent / module.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text())
    usage = ast.get_docstring(tree)
    parts.append(
      f"## {command}\n\n{about} Module `{module}`.\n\n"
      f"```text\n{usage}\n```\n\n{''.join(_flags(tree))}"
    )
  return "\n".join(parts)
