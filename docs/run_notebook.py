"""Run docs/notebook.ipynb from top to bottom and store its outputs: `make notebook`."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")


def executed(path: Path = NOTEBOOK, timeout: int = 600) -> Any:
    """The notebook with new outputs, run in an empty folder; raises `CellExecutionError` where a cell does.

    Progress bars and warnings of the machine at hand are left out, and so is the plain text of what has a richer form.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=timeout, resources=resources, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if len(output.get("data", {})) > 1:
                    del output["data"]["text/plain"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
    sys.stdout.write(f"{NOTEBOOK.name} is up to date\n")
