"""`antiphase train`: from a recipe to a trained model with its trajectory, summary, figure and card.

OUT/recipe.json        the resolved settings, compared on resume
OUT/trajectory.jsonl   one row a step, written as it goes
OUT/checkpoint-N/      TRL's checkpoints
OUT/                   at the end: model, tokenizer, README.md, summary.json, figures/trajectory.{png,svg}
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import get_peft_config, get_quantization_config

from antiphase.errors import InvalidInputError, ModelNotFoundError
from antiphase.generation import Sampling
from antiphase.models.loading import inspect_model
from antiphase.probing.summary import commit, versions
from antiphase.tasks.pool import VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import load_task
from antiphase.tasks.rewards import rows
from antiphase.train.card import write_card
from antiphase.train.console import ConsoleCallback, Interruption
from antiphase.train.estimate import estimate_step
from antiphase.train.folder import last_checkpoint, prepared
from antiphase.train.functions import reward_function, try_functions
from antiphase.train.heldout import HeldOut, HeldOutCallback
from antiphase.train.recipe import Recipe, parse_recipe
from antiphase.train.trainer import CorRPOTrainer
from antiphase.train.trajectory import read_trajectory

FORMAT, FORMAT_VERSION = "antiphase-train", 1
# The held-out problems are the same for every seed of the training, so that runs can be compared.
EVAL_SEED = 0


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Args:
        folder: where everything is.
        summary: the content of summary.json; None after an interruption or a dry run.
        interrupted: stopped by Ctrl-C or SIGTERM, with a checkpoint.
    """

    folder: Path
    summary: Mapping[str, Any] | None
    interrupted: bool = False


def train(arguments: Sequence[str]) -> TrainResult:
    """Run `antiphase train` with these flags.

    Raises:
        AntiphaseError: a setting, task, model or reward function that cannot work; before anything long starts.
    """
    disable_progress_bar()
    recipe = parse_recipe(arguments)
    folder = Path(recipe.config.output_dir)
    tokenizer = _tokenizer(recipe)
    with VerifierPool() as pool:
        train_problems, eval_problems = _problems(recipe)
        table = _rows(recipe, tokenizer, train_problems)
        functions = [reward_function(name, pool) for name in recipe.options.reward_funcs]
        try_functions(functions, table)
        ends = _end_tokens(recipe, tokenizer)
        if recipe.dry_run:
            _print_recipe(recipe, len(train_problems), len(eval_problems))
            prompts = [list(ids) for ids in _prompt_ids(tokenizer, table[: recipe.config.per_device_train_batch_size])]
            with tempfile.TemporaryDirectory() as nowhere:
                recipe.config.output_dir = nowhere
                print(estimate_step(_trainer(recipe, functions, table, tokenizer, ends), prompts))
            return TrainResult(folder, None)
        with prepared(folder, recipe):
            _print_recipe(recipe, len(train_problems), len(eval_problems))
            trainer = _trainer(recipe, functions, table, tokenizer, ends)
        return _run(recipe, trainer, tokenizer, eval_problems, pool)


def _run(
    recipe: Recipe, trainer: Any, tokenizer: Any, eval_problems: Sequence[Problem], pool: VerifierPool
) -> TrainResult:
    folder = Path(recipe.config.output_dir)
    main = trainer.accelerator.is_main_process
    heldout = None
    if eval_problems:
        heldout = HeldOutCallback(
            _held_out(recipe, tokenizer, eval_problems), trainer.trajectory, tokenizer, pool, recipe.options.eval_every
        )
        heldout.trainer = trainer
    began = time.time()
    with Interruption(trainer.accelerator) as interruption:
        trainer.add_callback(interruption)
        if heldout is not None:
            heldout.interruption = interruption
            trainer.add_callback(heldout)
        checkpoint = last_checkpoint(folder) if recipe.resume else None
        if recipe.resume and main:
            print(f"resuming from {checkpoint}" if checkpoint else "no checkpoint yet: beginning anew", flush=True)
        trainer.train(str(checkpoint) if checkpoint else None)
        if interruption.stopped:
            return TrainResult(folder, None, interrupted=True)
    trainer.save_model()
    summary = None
    if main:
        summary = _summary(recipe, trainer, time.time() - began)
        _finish(folder, trainer, recipe, summary)
    trainer.accelerator.wait_for_everyone()
    return TrainResult(folder, summary)


def _tokenizer(recipe: Recipe) -> Any:
    model = recipe.model
    inspect_model(
        model.model_name_or_path, trust_remote_code=recipe.config.trust_remote_code, revision=model.model_revision
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.model_name_or_path,
            revision=model.model_revision,
            padding_side="left",
            truncation_side="left",
            trust_remote_code=recipe.config.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"{recipe.options.model!r} has no tokenizer ({str(error).splitlines()[0]})."
        ) from None
    return tokenizer


def _problems(recipe: Recipe) -> tuple[list[Problem], list[Problem]]:
    options = recipe.options
    tasks = [load_task(spec) for spec in options.tasks]
    training = [
        problem
        for task in tasks
        for problem in task.problems("train", options.num_problems, recipe.config.data_seed or recipe.config.seed)
    ]
    held: list[Problem] = []
    for place, task in enumerate(tasks):
        share = options.eval_problems // len(tasks) + (place < options.eval_problems % len(tasks))
        if share:
            held += task.problems(options.eval_split, share, EVAL_SEED)  # type: ignore[arg-type]
    both = {problem.prompt for problem in training} & {problem.prompt for problem in held}
    if both:
        raise InvalidInputError(
            f"{len(both)} held-out problems are training problems too, such as {min(both)[:60]!r}. Choose an "
            "eval_split that shares none, or eval_problems=0."
        )
    return training, held


def _rows(recipe: Recipe, tokenizer: Any, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    options = recipe.options
    chat = options.chat_template and tokenizer.chat_template is not None
    return rows(problems, system_prompt=options.system_prompt, prompt_template=options.prompt_template, chat=chat)


def _prompt_ids(tokenizer: Any, table: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, ...], ...]:
    """Tokenised as the host does it."""
    ids = []
    for row in table:
        prompt = row["prompt"]
        if isinstance(prompt, str):
            ids.append(tuple(tokenizer(prompt).input_ids))
        else:
            rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
            ids.append(tuple(rendered["input_ids"]))
    return tuple(ids)


def _held_out(recipe: Recipe, tokenizer: Any, problems: Sequence[Problem]) -> HeldOut:
    config = recipe.config
    sampling = Sampling(
        max_new_tokens=config.max_completion_length, temperature=config.temperature, top_p=config.top_p, seed=EVAL_SEED
    )
    return HeldOut(
        tuple(problems),
        _prompt_ids(tokenizer, _rows(recipe, tokenizer, problems)),
        recipe.options.eval_samples,
        sampling,
        max(config.per_device_eval_batch_size, 16),
    )


def _trainer(
    recipe: Recipe,
    functions: Sequence[Any],
    table: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    ends: Sequence[int],
) -> Any:
    model, config = recipe.model, recipe.config
    init = dict(config.model_init_kwargs or {})
    for key, value in (("revision", model.model_revision), ("attn_implementation", model.attn_implementation)):
        if value is not None and value != "main":
            init.setdefault(key, value)
    if "dtype" in recipe.given:
        init["dtype"] = model.dtype
    config.model_init_kwargs = init or None
    trainer = CorRPOTrainer(
        _policy(recipe, tokenizer, ends),
        list(functions),
        config,
        train_dataset=Dataset.from_list(list(table)),
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if trainer.accelerator.is_main_process:
        trainer.add_callback(ConsoleCallback())
    return trainer


def _end_tokens(recipe: Recipe, tokenizer: Any) -> list[int]:
    ends = []
    for text in recipe.options.end_tokens:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise InvalidInputError(
                f"end_tokens: {text!r} is {len(ids)} tokens of this model; give texts of one token."
            )
        ends += ids
    return ends


def _policy(recipe: Recipe, tokenizer: Any, ends: Sequence[int]) -> Any:
    """The model's name, for the host to load; or the model, where it must be told of more end tokens."""
    name = recipe.model.model_name_or_path
    if not ends:
        return name
    kwargs: dict[str, Any] = {"dtype": "float32", **(recipe.config.model_init_kwargs or {})}
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=recipe.config.trust_remote_code, **kwargs)
    own = model.generation_config.eos_token_id
    own = [tokenizer.eos_token_id] if own is None else own if isinstance(own, list) else [own]
    model.generation_config.eos_token_id = [*own, *ends]
    return model


def _print_recipe(recipe: Recipe, num_training: int, num_held_out: int) -> None:
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    preset = recipe.preset
    if preset is not None:
        pinned = ", ".join(f"{key}={value}" for key, value in preset.arguments.items())
        print(f"preset {recipe.options.preset} ({preset.source})\n  {pinned}\n  deviations: {preset.deviations}")
        for key, value in preset.arguments.items():
            if key in recipe.given and recipe.given[key] != value:
                print(f"  yours instead: {key}={recipe.given[key]}")
    if recipe.dry_run:
        print(json.dumps(recipe.resolved, indent=2, ensure_ascii=False))
    config = recipe.config
    print(
        f"{num_training} training problems, {num_held_out} held out; {config.generation_batch_size} rollouts a "
        f"generation in groups of {config.num_generations}; {config.inversion_combine}, "
        f"λ {config.inversion_weight:g}, estimator {config.inversion_estimator}",
        flush=True,
    )


def _summary(recipe: Recipe, trainer: Any, seconds: float) -> dict[str, Any]:
    trajectory = read_trajectory(Path(recipe.config.output_dir))
    steps = [row for row in trajectory if row["kind"] == "step"]
    evals = [row for row in trajectory if row["kind"] == "eval"]
    tenth = max(1, len(steps) // 10)
    change = {}
    for key in ("heldout/pass@1", "heldout/greedy"):
        if evals:
            change[key] = [evals[0].get(key), evals[-1].get(key)]
    for key in ("task/accuracy", "inversion/mean", "inversion/undefined", "rollout/entropy", "rollout/length"):
        change[key] = [_mean(steps[:tenth], key), _mean(steps[-tenth:], key)]
    settings = {**recipe.resolved, "model_name_or_path": recipe.options.model}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions() | _train_versions(),
        "commit": commit(),
        "seed": recipe.config.seed,
        "device": str(trainer.accelerator.device),
        "num_processes": trainer.accelerator.num_processes,
        "config": settings,
        "change": change,
        "heldout": [evals[0], evals[-1]] if evals else [],
        "num_steps": trainer.state.global_step,
        "alarms": trainer.watch.alarms,
        "seconds": seconds,
        "measuring_seconds": sum(row["inversion/seconds"] for row in steps),
    }


def _train_versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("trl", "accelerate", "datasets")}


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in steps if row.get(key) is not None]
    return sum(values) / len(values) if values else None


def _finish(folder: Path, trainer: Any, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    from antiphase.figures.trajectory import save_trajectory

    write_card(trainer, recipe, summary)
    work = folder / ".summary.json.tmp"
    work.write_text(json.dumps(_json_safe(summary), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_trajectory(read_trajectory(folder), folder / "figures")
    work.replace(folder / "summary.json")


def _json_safe(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _json_safe(inner) for key, inner in value.items()}
    return [_json_safe(inner) for inner in value] if isinstance(value, list | tuple) else value
