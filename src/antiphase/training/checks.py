"""Checks the arguments, data sets and checkpoint of `CorRPOTrainer` before the training starts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from trl import GRPOConfig

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean
from antiphase.runs.folder_kinds import check_same
from antiphase.tasks.task_rewards import AccuracyReward, FormatReward
from antiphase.training.batch_sizes import check_batch_sizes
from antiphase.training.random_reward import RandomReward
from antiphase.training.reward_functions import MajorityVoteReward, SignalReward, unwrapped
from antiphase.training.trainer_config import BEFORE_THE_FIELD, OWN_FIELDS, CorRPOConfig

# The file in which TRL keeps the state of use_adaptive_entropy.
ENTROPY_STATE = "entropy_ctrl_state.json"


def own_config(model: Any, args: Any) -> CorRPOConfig:
    """Return the trainer's arguments, after a check of their type.

    If `args` is None, the default arguments are returned. Their output directory is named after the model.

    Raises:
        InvalidInputError: the arguments are not a `CorRPOConfig`. TRL's own `GRPOConfig` is refused too.
    """
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        return CorRPOConfig(f"{name.split('/')[-1]}-CorR-PO")
    if not isinstance(args, CorRPOConfig):
        given = "a GRPOConfig" if isinstance(args, GRPOConfig) else type(args).__name__
        raise InvalidInputError(f"args must be a CorRPOConfig, which takes every argument of GRPOConfig; got {given}.")
    return args


def check_functions(functions: Sequence[Any], args: CorRPOConfig) -> None:
    """Raise InvalidInputError if the reward weights or `inversion_combine` do not fit the other arguments.

    There must be one weight for each reward function. `inversion_combine='gated'` cannot be used with
    `multi_objective_aggregation='normalize_then_sum'`.
    """
    if args.reward_weights is not None and len(args.reward_weights) != len(functions):
        raise InvalidInputError(
            f"reward_weights has {len(args.reward_weights)} numbers for {len(functions)} reward functions. Give one "
            "number for each function. The weight of inversion, λ, is not among them: it is inversion_weight."
        )
    if args.inversion_combine == "gated" and args.multi_objective_aggregation != "sum_then_normalize":
        raise InvalidInputError(
            "inversion_combine='gated' bounds the sum of the rewards, but normalize_then_sum (GDPO) normalises each "
            "reward alone, which undoes the bound. With normalize_then_sum, use 'sum' or 'centered'."
        )


def check_classes(classes: Sequence[Any], num_functions: int) -> None:
    """Raise InvalidInputError unless there are as many reward processing classes as reward functions.

    A reward processing class is the tokenizer of a reward model; it is None for other reward functions.
    """
    if len(classes) != num_functions:
        raise InvalidInputError(
            f"The number of reward_processing_classes ({len(classes)}) must match the number of reward_funcs "
            f"({num_functions}). Give a tokenizer for each reward model, and None for each other function."
        )


def check_rewarded(num_rewards: int, args: CorRPOConfig) -> None:
    """Raise InvalidInputError if a task reward is needed and neither a function nor an environment gives one."""
    if not num_rewards and args.inversion_combine != "only":
        raise InvalidInputError(
            f"No reward source provided: inversion_combine='{args.inversion_combine}' needs a task reward, and there "
            "is no reward function. Give reward_funcs, or train on inversion alone with inversion_combine='only'."
        )


def check_token_advantages(args: CorRPOConfig, verifier: int | None) -> None:
    """Raise InvalidInputError if `token_advantages='gtpo'` does not fit the reward functions and the other arguments.

    Args:
        args: the trainer's arguments.
        verifier: index of the verifier (the reward function that says which completions are right), or None if there
            is no verifier.
    """
    if args.token_advantages == "none":
        return
    if verifier is None or args.inversion_combine == "only":
        raise InvalidInputError(
            "token_advantages='gtpo' treats right and wrong rollouts differently. So it needs a verifier, and it "
            "cannot be used with inversion_combine='only'. Add a reward function that verifies, or set "
            "token_advantages='none'."
        )
    if args.multi_objective_aggregation != "sum_then_normalize":
        raise InvalidInputError(
            "token_advantages='gtpo' normalises rewards in its own way, so it does not go with normalize_then_sum."
        )


def check_columns(arguments: Mapping[str, Any], functions: Sequence[Any]) -> None:
    """Raise InvalidInputError unless the data sets have the columns that TRL and the verifier read.

    If a streamed data set does not name its columns, its first row is read to find them.

    Args:
        arguments: a mapping from names to the arguments of TRL's trainer, among them the data sets.
        functions: the reward functions.
    """
    needed = [] if arguments.get("environment_factory") is not None else ["prompt"]
    if any(isinstance(function, AccuracyReward) for function in functions):
        needed += ["answer", "task", "problem_id", "metadata"]
    for name in ("train_dataset", "eval_dataset"):
        given = arguments.get(name)
        for dataset in given.values() if isinstance(given, dict) else [given]:
            if not needed or not isinstance(dataset, Dataset | IterableDataset):
                continue  # TRL refuses what is no data set.
            columns = dataset.column_names
            if columns is None:
                columns = list(next(iter(dataset), {}))
                if not columns:
                    raise InvalidInputError(f"{name} is a stream without rows, so there is nothing to train on.")
            missing = [column for column in needed if column not in columns]
            if missing:
                raise InvalidInputError(
                    f"{name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
                    f"{', '.join(map(str, columns))}. Rename the columns of the data set, or make its rows with "
                    "antiphase.tasks.task_rewards.rows."
                )


def verifier_index(names: Sequence[str], functions: Sequence[Any], args: CorRPOConfig) -> int | None:
    """Return the index of the verifier: the reward function that says which completions are right.

    The option `inversion_verifier` names this function. Without the option, the classes `SignalReward`,
    `MajorityVoteReward`, `RandomReward` and `FormatReward` are skipped, since they do not know the right answer. The
    first function of another class is the verifier.

    Args:
        names: names of the reward functions.
        functions: the reward functions, in the same order.
        args: the trainer's arguments.

    Returns:
        the index of the verifier, or None if there is no verifier.

    Raises:
        InvalidInputError: no reward function has the given name, or `inversion_combine` is `gated` and there is no
            verifier.
    """
    if args.inversion_verifier is None:
        free = (SignalReward, MajorityVoteReward, RandomReward, FormatReward)
        place = next((i for i, function in enumerate(functions) if not isinstance(unwrapped(function), free)), None)
        if place is None and args.inversion_combine == "gated":
            raise InvalidInputError(
                "inversion_combine='gated' needs a verifier, which is a reward function that says which completions "
                "are right, and there is none. Add such a function; its weight may be 0."
            )
        return place
    if args.inversion_verifier not in names:
        raise InvalidInputError(
            f"inversion_verifier {args.inversion_verifier!r} is none of the reward functions: {', '.join(names)}."
            + did_you_mean(args.inversion_verifier, names)
        )
    return list(names).index(args.inversion_verifier)


def checkpoint_state(folder: Path, args: CorRPOConfig) -> dict[str, Any]:
    """Return the state that `Watch` saved in a checkpoint, in the form that `Watch.restore` takes.

    Raises:
        InvalidInputError: the folder is not a complete checkpoint of `CorRPOTrainer`, the checkpoint is at the last
            step already, the state of `use_adaptive_entropy` is missing, or the checkpoint was trained with other
            inversion options or with batches of other sizes.
    """
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{str(folder)!r} is not a whole checkpoint ({error}).") from None
    if 0 < args.max_steps <= state.get("global_step", 0):
        raise InvalidInputError(
            f"{str(folder)!r} is at step {state['global_step']} of {args.max_steps}: nothing is left to train. Raise "
            "max_steps to go on."
        )
    if args.use_adaptive_entropy and not (folder / ENTROPY_STATE).is_file():
        raise InvalidInputError(
            f"{str(folder)!r} has no {ENTROPY_STATE}, which holds the coefficient that use_adaptive_entropy adapts. "
            "TRL would begin again with entropy_coef. Resume from another checkpoint, or restore the file."
        )
    kept = state.get("stateful_callbacks", {}).get("Watch")
    if kept is None:
        raise InvalidInputError(
            f"{str(folder)!r} was not written by CorRPOTrainer. To start from its weights, pass the folder as the "
            "model."
        )
    before: dict[str, Any] = kept["attributes"]
    settings = {**BEFORE_THE_FIELD, **before["settings"]}
    compared = [name for name in OWN_FIELDS if name in settings and name != "inversion_token_budget"]
    now = {name: getattr(args, name) for name in compared}
    check_same(folder, "a checkpoint", {name: settings[name] for name in compared}, now)
    check_batch_sizes(folder, before.get("batches", {}), args)
    return before
