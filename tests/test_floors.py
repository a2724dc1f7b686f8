"""A room imports only from lower floors (docs/design.md, "The house")."""

import ast
import pathlib

import pytest

import jssl

ROOT = pathlib.Path(jssl.__file__).parent

FLOORS = {
  "typing": 0,
  "rng": 0,
  "mesh": 0,
  "tree": 0,
  "fields": 0,
  "schedules": 0,
  "compiled": 0,
  "storage": 0,
  "endings": 0,
  "hosts": 0,
  "targets": 0,
  "hlo": 0,
  "cost": 0,
  "ops": 1,
  "losses": 1,
  "manifest": 1,
  "clock": 1,
  "augment": 1,
  "models": 1,
  "data": 1,
  "optim": 1,
  "diagnostics": 2,
  "kernels": 2,
  "objectives": 2,
  "checkpoint": 2,
  "recipes": 2,
  "sections": 2,
  "workdirs": 2,
  "build": 3,
  "train": 4,
  "probe": 5,
  "report": 6,
  "preflight": 7,
  "study": 7,
}
# Within a floor: who may know whom.
NEIGHBOURS = {
  ("losses", "ops"),
  ("cost", "hlo"),
  ("hosts", "endings"),
  ("rng", "typing"),
  ("mesh", "typing"),
  ("tree", "typing"),
  ("schedules", "typing"),
}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
  """Returns the dotted names that a file imports, at any depth of nesting."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def rooms_imported(path: pathlib.Path) -> set[str]:
  parts = [name.split(".") for name in imports(path)]
  return {p[1] for p in parts if p[0] == "jssl" and len(p) > 1}


def test_every_room_has_a_floor():
  rooms = {room_of(path) for path in FILES} - {"__init__"}
  assert rooms == FLOORS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
  room = room_of(path)
  if room == "__init__":
    return
  for other in rooms_imported(path) & FLOORS.keys():
    down = FLOORS[other] < FLOORS[room]
    # Nobody imports a bench: it may put together what stands on its floor.
    down |= (
      "bench" in (path.stem, path.parent.name) and FLOORS[other] == FLOORS[room]
    )
    assert other == room or down or (room, other) in NEIGHBOURS, (
      f"{path.relative_to(ROOT)} (floor {FLOORS[room]}) imports jssl.{other} "
      f"(floor {FLOORS[other]})"
    )


@pytest.mark.parametrize(
  ("library", "rooms"),
  [
    ("orbax", {"checkpoint"}),
    ("grain", {"data"}),
    ("flax", {"models"}),
    ("optax", {"build", "objectives", "optim", "schedules", "train", "probe"}),
    (
      "ml_collections",
      {
        *("build", "workdirs", "train", "probe", "report"),
        *("preflight", "study"),
      },
    ),
    ("tensorflow", set()),
    # What another interpreter runs, for a bench to compare with.
    ("torch", {"data"}),
  ],
)
def test_libraries_stay_in_their_rooms(library, rooms):
  users = {
    room_of(path)
    for path in FILES
    if any(name.split(".")[0] == library for name in imports(path))
  }
  assert users <= rooms


def test_probe_and_train_do_not_know_each_other():
  for path in FILES:
    if room_of(path) == "probe":
      assert "train" not in rooms_imported(path), path
