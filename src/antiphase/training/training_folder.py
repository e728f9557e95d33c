"""Makes the folder of a new training run, or checks the folder of a run that continues, and finds its checkpoints."""

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.runs.folder_kinds import check_same, read_json
from antiphase.runs.folder_lock import only_writer
from antiphase.training.out_folder import FILE, check_folder, read_settings, write_whole
from antiphase.training.recipe import FREE_ON_RESUME, Recipe
from antiphase.training.run_options import BEFORE_THE_OPTION
from antiphase.training.trainer_config import BEFORE_THE_FIELD

# The key in recipe.json of the time that the chat template reads.
MOMENT = "chat_template_moment"


def prompt_moment(folder: Path) -> str:
    """Return the time that the chat template uses as the current time, in ISO format.

    It is the time at which the run in the folder began, or the present time if the folder holds no run. All processes
    return the same time, which the main process chooses.
    """
    from accelerate.utils import broadcast_object_list

    kept = read_json(folder / FILE).get(MOMENT) if (folder / FILE).is_file() else None
    shared = [kept or datetime.now().isoformat(timespec="seconds")]
    broadcast_object_list(shared)
    return str(shared[0])


@contextlib.contextmanager
def held_by_main(folder: Path) -> Iterator[None]:
    """Let only this training write to the folder while the block lasts. The main process holds the lock.

    Raises:
        InvalidInputError: another training is writing to the folder. Every process of this training raises the error.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    with contextlib.ExitStack() as stack:
        refused: list[str | None] = [None]
        if PartialState().is_main_process:
            try:
                stack.enter_context(only_writer(folder))
            except InvalidInputError as error:
                refused = [str(error)]
        broadcast_object_list(refused)
        if refused[0] is not None:
            raise InvalidInputError(refused[0])
        yield


@contextlib.contextmanager
def prepared(folder: Path, recipe: Recipe, moment: str | None = None) -> Iterator[None]:
    """Make the run's folder with its options, or check that it holds an unfinished run with the same options.

    The training is set up in the block of this context manager. If the block raises an error, a folder that was made
    here is removed, so that the corrected command can use it.

    Args:
        folder: the run's folder.
        recipe: the run's options.
        moment: the time that the chat template uses as the current time, in ISO format; None if it uses no time.

    Raises:
        InvalidInputError: the folder holds something that is no training run, a finished run, or a run with other
            options.
    """
    from accelerate import PartialState

    settings = json.loads(json.dumps(recipe.resolved))
    held = check_folder(folder, resume=recipe.resume)
    if held:
        free = dict.fromkeys((*FREE_ON_RESUME, MOMENT))
        before = {**BEFORE_THE_FIELD, **BEFORE_THE_OPTION, **read_settings(folder), **free}
        check_same(folder, "a run", before, {**settings, **free})
    state = PartialState()
    # No process may write before every process has checked the folder.
    state.wait_for_everyone()
    if state.is_main_process:
        _note(folder, settings if moment is None else {**settings, MOMENT: moment})
    try:
        yield
    except Exception:
        if state.is_main_process and not held:
            (folder / FILE).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _note(folder: Path, settings: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InvalidInputError(f"cannot write to {str(folder)!r} ({error.strerror or error}).") from error


def finished_training(checkpoint: Path) -> bool:
    """Return whether a checkpoint was saved after the last step of its run."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(0 < state["max_steps"] <= state["global_step"])


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in the folder, or None if there is none.

    A checkpoint that a killed run had begun to write is skipped.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None
