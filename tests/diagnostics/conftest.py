import pytest

from jssl.diagnostics import pairs, rows
from jssl.mesh import make_mesh


# The mesh pads its blocks; small blocks end with a partial block.
@pytest.fixture(params=["one block", "blocks", "mesh"])
def mesh(request, monkeypatch):
  """Devices and block sizes: results must not depend on them."""
  if request.param == "blocks":
    monkeypatch.setattr(rows, "BLOCK", 150)
    monkeypatch.setattr(pairs, "TILE", 105)
  return make_mesh(8, 1) if request.param == "mesh" else None
