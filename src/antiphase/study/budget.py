"""Compute the budget of a study (rollouts, tokens, optimizer steps), and check that all methods have the same budget.

These checks run before anything is trained. They read no model weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from antiphase.errors import InvalidInputError, MissingExtraError, ModelNotFoundError
from antiphase.evaluation.evaluation_config import EvalConfig
from antiphase.runs.run_config import config_from
from antiphase.study.grid import TUNABLE, Cell, Study
from antiphase.study.reach import count_problems, is_unreachable
from antiphase.study.request import cell_recipe


@dataclass(frozen=True)
class Budget:
    """The budget of one training. It must be equal for methods that are compared.

    Args:
        tasks: the training tasks.
        num_problems: number of problems of each task; None means all.
        steps: number of optimizer steps.
        rollouts: total number of rollouts that are sampled.
        group_size: number of rollouts of each prompt.
        max_tokens: length limit of a completion, in tokens.
        batch: number of rollouts in an optimizer step.
        learning_rate: the highest learning rate of the schedule.
    """

    tasks: tuple[str, ...]
    num_problems: int | None
    steps: int
    rollouts: int
    group_size: int
    max_tokens: int | None
    batch: int
    learning_rate: float


def training_budget(cell: Cell, scratch: Path, processes: int = 1) -> Budget:
    """Read and check the recipe of a cell (one model, setting, method and seed), and return its training's budget.

    Args:
        cell: a cell that trains.
        scratch: an existing folder for temporary files.
        processes: number of processes that the training runs in.

    Raises:
        InvalidInputError: `antiphase train` refuses a key or value of the recipe, or the recipe has no `max_steps`.
    """
    try:
        from antiphase.training.recipe import parse_recipe
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "train", "training the cells of a sweep") from error
    path = scratch / "recipe.yaml"
    path.write_text(yaml.safe_dump(cell_recipe(cell, "model", scratch / "out")), encoding="utf-8")
    try:
        recipe = parse_recipe(["--config", str(path)])
    except InvalidInputError as error:
        message = str(error).replace(f"{path}: ", "")
        raise InvalidInputError(f"method {cell.method!r} of the model {cell.model!r}: {message}") from error
    config, options = recipe.config, recipe.options
    if (config.max_steps or 0) <= 0:
        raise InvalidInputError(
            f"method {cell.method!r} of the model {cell.model!r}: a study needs max_steps, to know its budget."
        )
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
    micro_steps = config.max_steps * config.gradient_accumulation_steps
    generations = -(-micro_steps // (config.num_iterations * config.steps_per_generation))
    return Budget(
        tuple(options.tasks),
        options.num_problems,
        config.max_steps,
        generations * config.generation_batch_size * processes,
        config.num_generations,
        config.max_completion_length,
        batch,
        float(config.learning_rate),
    )


def check_budgets(study: Study, scratch: Path, processes: int = 1) -> dict[str, Budget]:
    """Return a mapping from the name of each cell that trains to its budget. Refuse a study with unequal budgets.

    A cell is one model, setting, method and seed.

    Args:
        study: the study.
        scratch: an existing folder for temporary files.
        processes: number of processes that a training runs in.

    Raises:
        InvalidInputError: two methods of the same model and setting have different budgets. Parts of the budget that
            `Study.tuned` names may differ.
    """
    known: dict[tuple[str, str, str], Budget] = {}
    budgets: dict[str, Budget] = {}
    for cell in study.cells:
        if not cell.trained:
            continue
        key = (cell.model, cell.setting, cell.method)
        if key not in known:
            known[key] = training_budget(cell, scratch, processes)
            for (*group, method), budget in known.items():
                if group == [cell.model, cell.setting]:
                    _check_equal((cell.method, method), known[key], budget, study.tuned)
        budgets[cell.name] = known[key]
    return budgets


def _check_equal(methods: tuple[str, str], left: Budget, right: Budget, tuned: Sequence[str]) -> None:
    """Raise InvalidInputError if the budgets of two methods differ in a part that `tuned` does not name."""
    parts = [name for name, one in vars(left).items() if one != vars(right)[name] and name not in tuned]
    differing = [f"{name} is {vars(left)[name]!r} and {vars(right)[name]!r}" for name in parts]
    if differing:
        hint = (
            f" If each method got its own value by the same number of trials, write compare: {{tuned: "
            f"[{', '.join(parts)}]}}."
            if set(parts) <= set(TUNABLE)
            else ""
        )
        raise InvalidInputError(
            f"the methods {methods[0]!r} and {methods[1]!r} have unequal budgets ({'; '.join(differing)}), so they "
            f"cannot be compared. Set these keys under train, where all methods share them.{hint}"
        )


def check_evaluations(cells: Sequence[Cell], *, dry_run: bool = False) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Check the options and tasks of each cell's evaluation, and count the rollouts of the evaluations.

    Args:
        cells: the study's cells. A cell is one model, setting, method and seed.
        dry_run: whether to go on if the hub cannot be reached. The sizes of data sets are then those that antiphase
            has stored.

    Returns:
        two things. The first is a mapping from the name of each cell to its number of rollouts and its largest
        possible number of new tokens. The second is a list of the data sets that could not be read because the hub
        cannot be reached.

    Raises:
        AntiphaseError: `antiphase eval` refuses an option or task.
    """
    known: dict[str, tuple[int, int]] = {}
    counts = {}
    unseen: dict[str, None] = {}
    for cell in cells:
        key = repr(sorted(cell.evaluation.items()))
        if key not in known:
            options: dict[str, Any] = {"seed": cell.seed, **cell.evaluation}
            config: EvalConfig = config_from("model", options, EvalConfig)
            rollouts, tokens = 0, 0
            for count in count_problems(config, dry_run=dry_run):
                number = count.problems * (count.samples + config.greedy)
                rollouts += number
                tokens += number * count.max_new_tokens
                if not count.seen:
                    unseen[f"the problems of {count.spec!r}"] = None
            known[key] = rollouts, tokens
        counts[cell.name] = known[key]
    return counts, list(unseen)


def check_models(cells: Sequence[Cell], *, dry_run: bool = False) -> list[str]:
    """Check the models of the cells, and the layers that their evaluations name, without reading weights.

    A model that the study makes with a command does not exist yet, so it is not checked.

    Args:
        cells: the study's cells. A cell is one model, setting, method and seed.
        dry_run: whether to go on if the hub cannot be reached.

    Returns:
        the names of the models that could not be checked because the hub cannot be reached.

    Raises:
        AntiphaseError: a model does not exist, cannot be measured, or lacks a layer that an evaluation names.
    """
    # These import transformers, which takes seconds; a sweep that only makes tables does not need it.
    from antiphase.models.loading import inspect_model
    from antiphase.signals.measure import chosen_layers

    known: set[tuple[str, str]] = set()
    unseen: dict[str, None] = {}
    for cell in cells:
        key = (str(cell.path), repr(sorted(cell.evaluation.items())))
        if cell.path is None or key in known or f"the model {cell.path!r}" in unseen:
            continue
        known.add(key)
        config: EvalConfig = config_from(cell.path, dict(cell.evaluation), EvalConfig)
        try:
            skeleton, _ = inspect_model(
                cell.path, trust_remote_code=config.trust_remote_code, revision=config.revision
            )
        except ModelNotFoundError as error:
            if not dry_run or not is_unreachable(error):
                raise
            unseen[f"the model {cell.path!r}"] = None
            continue
        for spec in config.specs():
            chosen_layers(skeleton, spec)
    return list(unseen)


def describe_budget(
    study: Study,
    budgets: dict[str, Budget],
    evaluations: dict[str, tuple[int, int]],
    done: int,
    unseen: Sequence[str] = (),
) -> str:
    """Return the total budget of a study as text.

    Args:
        study: the study.
        budgets: a mapping from the name of each cell (one model, setting, method and seed) to its training's budget.
        evaluations: a mapping from the name of each cell to its evaluation's numbers of rollouts and tokens.
        done: number of cells that are done.
        unseen: names of the models and data sets that a dry run could not check.
    """
    trained = [budgets[cell.name] for cell in study.cells if cell.trained]
    rollouts = sum(number for number, _ in evaluations.values())
    lines = [
        f"study {study.name}: {len(study.cells)} cells ({len(trained)} trained and evaluated, "
        f"{len(study.cells) - len(trained)} evaluated alone), {len(study.made())} models to make; {done} cells done",
        f"training: {sum(b.steps for b in trained):,} optimizer steps, {sum(b.rollouts for b in trained):,} rollouts "
        f"of up to {max((b.max_tokens or 0 for b in trained), default=0)} tokens, at most "
        f"{sum(b.rollouts * (b.max_tokens or 0) for b in trained):,} tokens",
        f"evaluation: {rollouts:,} rollouts, at most {sum(tokens for _, tokens in evaluations.values()):,} tokens",
    ]
    if unseen:
        lines.append(
            f"not checked, because the hub cannot be reached from here: {'; '.join(unseen)}. Sizes are those that "
            "antiphase knows."
        )
    return "\n".join(lines)
