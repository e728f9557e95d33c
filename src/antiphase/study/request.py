"""Check the arguments of a sweep, before anything is imported that trains or measures.

`sweep` itself checks what needs such imports: problems, models and budgets.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.runs.folder_lock import InUseError, holder
from antiphase.runs.run_config import config_from
from antiphase.study.definition import read_study
from antiphase.study.grid import Cell, Study
from antiphase.study.records import cell_lock, done_cells
from antiphase.tasks.registry import load_task
from antiphase.training.own_checks import check_recipe


@dataclass(frozen=True)
class SweepRequest:
    """A study, and the list of its cells that are to be run.

    A study is a grid of experiments. A cell is one experiment: one model, setting, method and seed.

    Args:
        study: the whole study.
        folder: folder that everything is written to. The path is absolute, because a training stores it.
        done: a mapping from the name of each cell that is done to its record.
        todo: the cells that the user asked for and that are not done.
    """

    study: Study
    folder: Path
    done: dict[str, dict[str, Any]]
    todo: tuple[Cell, ...]


def sweep_request(
    path: str | Path, out: str | Path, *, cells: Sequence[str] = (), jobs: int = 1, train: Sequence[str] = ()
) -> SweepRequest:
    """Read a study and choose the cells to run. A cell is one model, setting, method and seed.

    Args:
        path: the file STUDY.yaml.
        out: folder that everything is written to. Cells that are done there are not run again.
        cells: names of the cells to run; by default all cells.
        jobs: number of cells that run at the same time.
        train: changes of the study's shared `train` keys, each of the form `KEY=VALUE`.

    Raises:
        InvalidInputError: the study is malformed, a cell does not exist, `jobs` is below 1, a cell in `out` was run
            with other options, or `out` belongs to a study of another name.
    """
    study, folder = read_study(Path(path), train), Path(out).absolute()
    if jobs < 1:
        raise InvalidInputError(f"jobs must be at least 1; got {jobs}.")
    chosen = [study.cell(name) for name in cells] or list(study.cells)
    check_name(study, folder)
    done = done_cells(folder, study)
    return SweepRequest(study, folder, done, tuple(cell for cell in chosen if cell.name not in done))


def check_name(study: Study, folder: Path) -> None:
    """Raise InvalidInputError if the folder belongs to a study of another name.

    The sweep would replace the tables of that study.
    """
    path = folder / "study.json"
    if not path.is_file():
        return
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["study"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{path} cannot be read ({error!r}). Remove it if the folder belongs to this study."
        ) from None
    if name != study.name:
        raise InvalidInputError(
            f"{str(folder)!r} belongs to the study {name!r}, so the study {study.name!r} in {study.path} cannot be "
            "run there. Choose another --out."
        )


def check_free(request: SweepRequest) -> None:
    """Raise an error if other processes run all the cells that are to be run.

    If they run only some of them, nothing is raised.

    Raises:
        InUseError: other processes run the cells. The message names the process that runs the first cell.
    """
    found = [holder(cell_lock(cell, request.folder)) for cell in request.todo]
    if found and found[0] is not None and None not in found:
        raise InUseError(
            f"the cell {request.todo[0].name} is being run by {found[0]}. Wait until this "
            "process has ended, or start a sweep without --cell, which takes the cells that are free."
        )


def check_cells(cells: Sequence[Cell]) -> None:
    """Check the training recipe and the evaluation of every cell (one model, setting, method and seed).

    Raises:
        AntiphaseError: an option or a task is invalid. If the error is in a recipe, the message names the
            method and the model.
    """
    seen: set[str] = set()
    for cell in cells:
        key = repr((cell.model, cell.setting, cell.method))
        if cell.trained and key not in seen:
            seen.add(key)
            try:
                check_recipe(cell_recipe(cell, "model", Path("out")))
            except InvalidInputError as error:
                raise InvalidInputError(f"method {cell.method!r} of the model {cell.model!r}: {error}") from error
        asked = repr(sorted(cell.evaluation.items()))
        if asked not in seen:
            seen.add(asked)
            if cell.trained and cell.evaluation.get("engine") == "openai":
                raise InvalidInputError(
                    f"method {cell.method!r} is trained here, but its evaluation has the engine 'openai': a server "
                    "does not have the trained model. Use another engine."
                )
            config: EvalConfig = config_from("model", {"seed": cell.seed, **cell.evaluation}, EvalConfig)
            for entry in config.entries():
                load_task(entry.spec)


def cell_recipe(cell: Cell, model: str, folder: Path) -> dict[str, Any]:
    """Return the training recipe of a cell (one model, setting, method and seed), as `antiphase train` reads it.

    Args:
        cell: the cell.
        model: hub id or directory of the model to train.
        folder: folder that the training writes to.
    """
    own = {"model": model, "seed": cell.seed, "output_dir": str(folder)}
    return {"eval_problems": 0, "report_to": "none", **cell.recipe, **own}
