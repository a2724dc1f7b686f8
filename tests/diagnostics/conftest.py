import pytest

from jssl.diagnostics import blocks
from jssl.mesh import make_mesh


# The mesh's blocks have rows to fill up; small blocks a last part of one.
@pytest.fixture(params=["one block", "blocks", "mesh"])
def mesh(request, monkeypatch):
  """Where sums are made: all of them must give the same."""
  if request.param == "blocks":
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 25)
    monkeypatch.setattr(blocks, "TILE", 105)
  return make_mesh(8, 1) if request.param == "mesh" else None
