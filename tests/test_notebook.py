"""The notebook runs from top to bottom in a fresh kernel, and prints the results that its text describes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.expected import caption_of
from tests.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "demo.ipynb"
PARTS = [
    "Image captioning",
    "Visual question answering",
    "Features",
    "Image-text matching",
    "Heat-maps",
    "Photo search",
    "Training",
    "CapFilt",
]


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    notebook: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return notebook


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_it_has_all_parts_and_no_stored_outputs(cells: list[dict[str, Any]]) -> None:
    titles = [line[3:] for cell in cells for line in source(cell).splitlines() if line.startswith("## ")]
    assert titles == PARTS
    assert not any(cell.get("outputs") for cell in cells)


def test_only_colab_installs(cells: list[dict[str, Any]]) -> None:
    code = [source(cell) for cell in cells if cell["cell_type"] == "code"]
    assert code[0].startswith('import sys\n\nif "google.colab" in sys.modules:') and "%pip install" in code[0]
    assert not any("pip install" in text for text in code[1:])


def test_every_cell_runs_and_training_learns_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.setenv("BLIP_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=HANG_SECONDS,
        startup_timeout=HANG_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "examples")}},
    )
    client.execute(env=os.environ | {"PYTHONWARNINGS": "default"})
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output
    )
    assert caption_of("chelsea.png") in printed
    assert "1 coffee" in printed
    assert "-> a rocket starts at night" in printed
    assert " of 5 texts kept" in printed and "DSC_0417" not in printed
    assert sum("image/png" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", ())) == 2
