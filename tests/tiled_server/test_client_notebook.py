"""The tutorial for analysts runs, from an empty laboratory to a region of a mosaic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]
NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorials" / "analysis.ipynb"


# Jupyter's client closes sockets and loops only when it is collected
@pytest.mark.filterwarnings("default")
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("MONTANGO_TUTORIAL", str(tmp_path / "lab"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    pictures = [one for one in outputs if "image/png" in one.get("data", {})]
    assert len(pictures) == 5  # heatmap, attempts, worst, mosaic, region
    text = "\n".join(map(_text, outputs))
    assert "20 of 20 tiles (20 passed, 1 frames more)" in text
    assert "blurred" in text
    assert "shape=(20, 512, 512)" in text
    assert "live_mosaic" in text
    assert "20 images, the first: region 0, row 0, column 0" in text
    assert "same pixels: True" in text
    solved = next(one for one in outputs if "solved_x_um" in _text(one))
    assert "NaN" not in _text(solved)  # the mosaic's places are in the table


def test_the_notebook_is_kept_without_its_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def _text(output: Any) -> str:
    data = output.get("data", {})
    return "\n".join((output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")))
