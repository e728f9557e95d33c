"""`antiphase train`: from a recipe to a trained model with its trajectory, summary, figure and card.

OUT/recipe.json        the resolved options, compared on resume
OUT/trajectory.jsonl   a row for each step, written during training
OUT/times.jsonl        how long the parts of each step took, written during training
OUT/kept_rollouts/     with the option keep_rollouts: some sampled rollouts with their tokens, written during training
OUT/checkpoint-N/      TRL's checkpoints
OUT/                   at the end: model, tokenizer, README.md, summary.json, report.html, figures/trajectory.{png,svg}
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import get_peft_config, get_quantization_config

from antiphase.data.chat_template import reads_clock
from antiphase.data.prompt_rendering import end_token_ids
from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.inversion.step_times import table_text
from antiphase.page.building import training_document
from antiphase.page.defaults import FILE as REPORT
from antiphase.page.document import Document
from antiphase.page.html import add_page
from antiphase.rollouts.end_tokens import end_token_union
from antiphase.runs.versions import commit
from antiphase.steps.thoughts import thought_tags
from antiphase.tasks.pool import VerifierPool
from antiphase.training.card import write_card
from antiphase.training.console import ConsoleCallback, Interruption
from antiphase.training.finishing import load_finished, save_whole
from antiphase.training.heldout import HeldOut, HeldOutCallback
from antiphase.training.inputs import (
    chat_options,
    check_context,
    draw_problems,
    held_out,
    load_tokenizer,
    prompt_ids,
    table_of,
)
from antiphase.training.kept_folder import read_kept
from antiphase.training.launch import check_installed
from antiphase.training.out_folder import write_whole
from antiphase.training.outcome import summarize_run
from antiphase.training.policy import is_sharded, plain_generation
from antiphase.training.recipe import FIRST_RELEASE, Recipe, is_former, parse_recipe
from antiphase.training.reward_names import reward_function, try_functions
from antiphase.training.step_estimate import estimate_step
from antiphase.training.trainer import CorRPOTrainer
from antiphase.training.training_folder import (
    finished_training,
    held_by_main,
    last_checkpoint,
    prepared,
    prompt_moment,
)
from antiphase.training.trajectory import read_times, read_trajectory, without_nan


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Args:
        folder: the run's folder.
        summary: the content of summary.json; None after an interruption or a dry run.
        interrupted: whether Ctrl-C or SIGTERM stopped the run. A checkpoint was then saved.
    """

    folder: Path
    summary: Mapping[str, Any] | None
    interrupted: bool = False


def train(arguments: Sequence[str]) -> TrainResult:
    """Run `antiphase train` with the given flags, and return the result.

    Args:
        arguments: the words after `antiphase train`.

    Raises:
        AntiphaseError: an option, task, model or reward function cannot work, or another process is writing to the
            folder. The error is raised before the training starts.
    """
    commit()  # The answer is cached, so that the summary names the commit at the beginning of the run.
    disable_progress_bar()
    recipe = parse_recipe(arguments)
    check_installed(recipe.config)
    folder = Path(recipe.config.output_dir)
    tokenizer, model_config = load_tokenizer(recipe)
    moment = prompt_moment(folder)
    held_folder = contextlib.nullcontext() if recipe.dry_run else held_by_main(folder)
    with held_folder, VerifierPool(think_tags=recipe.options.think_tags) as pool:
        train_problems, eval_problems = draw_problems(recipe)
        table = table_of(recipe, tokenizer, train_problems)
        functions = [reward_function(name, pool, recipe.config.seed) for name in recipe.options.reward_funcs]
        try_functions(functions, table)
        ends = end_token_ids(recipe.options.end_tokens, tokenizer)
        encoded = prompt_ids(tokenizer, table, chat_options(recipe, moment))
        check_context(recipe, model_config, encoded)
        if recipe.dry_run:
            _print_recipe(recipe, len(train_problems), len(eval_problems))
            prompts = [list(ids) for ids in encoded[: recipe.config.per_device_train_batch_size]]
            with tempfile.TemporaryDirectory() as nowhere:
                recipe.config.output_dir = nowhere
                _print_estimate(_trainer(recipe, functions, table, tokenizer, ends, moment), prompts)
            return TrainResult(folder, None)
        held = held_out(recipe, tokenizer, eval_problems, moment) if eval_problems else None
        with prepared(folder, recipe, moment if reads_clock(tokenizer) else None):
            _print_recipe(recipe, len(train_problems), len(eval_problems))
            trainer = _trainer(recipe, functions, table, tokenizer, ends, moment)
        return _run(recipe, trainer, tokenizer, held, pool)


def _run(recipe: Recipe, trainer: Any, tokenizer: Any, held: HeldOut | None, pool: VerifierPool) -> TrainResult:
    folder = Path(recipe.config.output_dir)
    main = trainer.accelerator.is_main_process
    heldout = None
    if held is not None:
        heldout = HeldOutCallback(held, trainer.trajectory, tokenizer, pool, recipe.options.eval_every)
        heldout.trainer = trainer
    began = time.time()
    policy = trainer.accelerator.unwrap_model(trainer.model)
    with plain_generation(policy), Interruption(trainer.accelerator) as interruption:
        trainer.add_callback(interruption)
        if heldout is not None:
            heldout.interruption = interruption
            trainer.add_callback(heldout)
        checkpoint = last_checkpoint(folder) if recipe.resume else None
        if recipe.resume and main:
            print(f"resuming from {checkpoint}" if checkpoint else "no checkpoint yet: starting anew", flush=True)
        if checkpoint is not None and finished_training(checkpoint):
            load_finished(trainer, checkpoint, heldout)
        else:
            trainer.train(str(checkpoint) if checkpoint else None)
        if interruption.stopped:
            return TrainResult(folder, None, interrupted=True)
    save_whole(trainer)
    summary = None
    if main:
        summary = summarize_run(recipe, trainer, time.time() - began)
        print(table_text(summary["times"]), flush=True)
        _finish(folder, trainer, recipe, summary)
    trainer.accelerator.wait_for_everyone()
    return TrainResult(folder, summary)


def _print_estimate(trainer: Any, prompts: list[list[int]]) -> None:
    """Time a step, and print the estimate in the main process.

    Raises:
        InvalidInputError: the weights would be sharded. They are not sharded before a training begins, so the times
            would be those of a whole model.
    """
    if is_sharded(trainer.accelerator):
        raise InvalidInputError(
            "--dry-run times a step with whole weights, and this launch shards them (FSDP 2 or ZeRO-3). Run it "
            "without the launcher, on one GPU."
        )
    estimate = estimate_step(trainer, prompts)
    if trainer.accelerator.is_main_process:
        print(estimate)


def _trainer(
    recipe: Recipe,
    functions: Sequence[Any],
    table: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    ends: Sequence[int],
    moment: str,
) -> Any:
    model, config = recipe.model, recipe.config
    init = dict(config.model_init_kwargs or {})
    for key, value in (("revision", model.model_revision), ("attn_implementation", model.attn_implementation)):
        if value is not None and value != "main":
            init.setdefault(key, value)
    if "dtype" in recipe.given:
        init["dtype"] = model.dtype
    config.model_init_kwargs = init or None
    try:
        trainer = CorRPOTrainer(
            _policy(recipe, tokenizer, ends),
            list(functions),
            config,
            train_dataset=Dataset.from_list(list(table)),
            processing_class=tokenizer,
            peft_config=get_peft_config(model),
            quantization_config=get_quantization_config(model),
        )
    except AntiphaseError:
        raise
    except (ValueError, ImportError) as error:
        # TRL, transformers and peft raise these for options that do not fit the model or this machine.
        raise InvalidInputError(" ".join(str(error).split())) from error
    trainer.know_tags(thought_tags(recipe.options.think_tags))
    # TRL renders a prompt whenever it samples. Without this, the prompts would change at midnight.
    trainer.chat_template = chat_options(recipe, moment).template_of(tokenizer) or trainer.chat_template
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if trainer.accelerator.is_main_process:
        trainer.add_callback(ConsoleCallback())
    return trainer


def _policy(recipe: Recipe, tokenizer: Any, ends: Sequence[int]) -> Any:
    """Return the policy as TRL's trainer takes it: the model's name, or the loaded model.

    The model is loaded here only if the recipe gives it further end tokens.
    """
    name = recipe.model.model_name_or_path
    if not ends:
        return name
    kwargs: dict[str, Any] = {"dtype": "float32", **(recipe.config.model_init_kwargs or {})}
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=recipe.config.trust_remote_code, **kwargs)
    model.generation_config.eos_token_id = end_token_union(model.generation_config, tokenizer, ends)
    return model


def _print_recipe(recipe: Recipe, num_training: int, num_held_out: int) -> None:
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    preset = recipe.preset
    if is_former(recipe.given):
        print(
            f"the recipe has inversion_combine={recipe.config.inversion_combine} and no inversion_unit, so it is "
            "read as in the first release: over tokens (inversion_unit: token), and by the estimator own unless the "
            "recipe names another"
        )
    if preset is not None:
        pins = dict(preset.arguments)
        if is_former(recipe.given):
            pins |= {key: value for key, value in FIRST_RELEASE.items() if key in pins}
        pinned = ", ".join(f"{key}={value}" for key, value in pins.items())
        print(f"preset {recipe.options.preset} ({preset.source})\n  {pinned}\n  deviations: {preset.deviations}")
        if preset.rewards:
            print(f"  rewards: the method's own, {' + '.join(preset.rewards)}; accuracy is only logged, with weight 0")
        for key, value in pins.items():
            if key in recipe.given and recipe.given[key] != value:
                print(f"  your value instead: {key}={recipe.given[key]}")
    if recipe.dry_run:
        print(json.dumps(recipe.resolved, indent=2, ensure_ascii=False))
    config = recipe.config
    print(
        f"{num_training} training problems, {num_held_out} held out; {config.generation_batch_size} rollouts a "
        f"generation, in groups of {config.num_generations}; inversion in mode {config.inversion_combine}, "
        f"λ {config.inversion_weight:g}, by {_items_of(config)}, estimator {config.inversion_estimator}",
        flush=True,
    )


def _items_of(config: Any) -> str:
    """Return a text that says what ρ is computed over, such as `step (sentence, joint)`."""
    unit = str(config.inversion_unit)
    how = f" ({config.inversion_splitter}, {config.inversion_step_strength})" if unit == "step" else ""
    of = "" if config.inversion_segment == "all" else f" of the {config.inversion_segment}"
    return unit + how + of


def _finish(folder: Path, trainer: Any, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    from antiphase.figures.saving import save_run_figures

    write_card(trainer, recipe, summary)
    rows = read_trajectory(folder)
    save_run_figures("train", folder / "figures", trajectory=rows)
    settings = json.loads(json.dumps(recipe.resolved))
    # The summary marks the run as finished.
    write_whole(folder / "summary.json", json.dumps(without_nan(summary), indent=2, ensure_ascii=False) + "\n")

    def document() -> Document:
        notes: list[str] = []
        kept = read_kept(folder, notes)
        times = read_times(folder)
        return training_document(folder.resolve().name, rows, settings, summary, kept=kept, times=times, notes=notes)

    add_page(document, folder / REPORT)
