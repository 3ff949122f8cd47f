"""The notebook of the docs runs from its first cell to its last."""

import nbclient
import nbformat
import pytest
from tiny import ROOT

TUTORIAL = ROOT / "docs/tutorial.ipynb"


@pytest.fixture(scope="module")
def executed(local, tmp_path_factory):
    """The notebook, run in a folder beside results/demo, which here is the shared run."""
    where = tmp_path_factory.mktemp("notebook")
    (where / "docs").mkdir()
    (where / "results").mkdir()
    (where / "results/demo").symlink_to(local[0] / "results/exact")
    # Where paths of models in the run's own records begin.
    (where / "my models").symlink_to(local[0] / "my models")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    options = {"resources": {"metadata": {"path": str(where / "docs")}}, "timeout": 120}
    return nbclient.NotebookClient(notebook, kernel_name="python3", **options).execute()


def test_every_cell_says_something(executed):
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    assert "Empty DataFrame" not in str([cell.outputs for cell in cells])
    assert len(cells) > 8


def test_a_neuron_shows_its_card(executed):
    pages = [
        output.data["text/html"]
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert any("Best matches in the other seeds" in page for page in pages)


def test_the_committed_notebook_was_run_on_the_demo():
    cells = nbformat.read(TUTORIAL, as_version=4).cells
    said = "".join(str(cell.outputs) for cell in cells if cell.cell_type == "code")
    assert "run demo: 5 seeds, 5 steps" in said
    assert "Traceback" not in said
    assert "Empty DataFrame" not in said
