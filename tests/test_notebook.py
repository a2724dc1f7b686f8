"""The notebook of the docs, executed as Jupyter does."""

import json
import pathlib
import subprocess
import sys

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "quickstart.ipynb"
EXECUTE = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=1200).execute()
nbformat.write(notebook, sys.argv[2])
"""


def test_it_is_stored_without_outputs():
  cells = json.loads(NOTEBOOK.read_text())["cells"]
  assert [c["outputs"] for c in cells if c.get("outputs")] == []


@pytest.mark.slow
def test_it_runs(tmp_path):
  executed = tmp_path / "executed.ipynb"
  subprocess.run(
    [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(executed)],
    check=True,
    cwd=tmp_path,
  )
  text = executed.read_text()
  assert "pretrained, step 60" in text
  assert "iframe srcdoc" in text
  assert "(4, 128)" in text
