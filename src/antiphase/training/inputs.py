"""Makes a recipe's inputs for training and evaluation: tokenizer, problems, data-set rows, held-out prompts."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from antiphase.data.chat_template import ChatOptions, unused_variables
from antiphase.data.prompt_rendering import PromptFormat, check_used, prompt_token_ids
from antiphase.errors import InvalidInputError
from antiphase.models.gguf import is_gguf
from antiphase.models.loading import inspect_model
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.tasks.problem import Problem
from antiphase.tasks.registry import load_task
from antiphase.tasks.task_rewards import rows
from antiphase.training.heldout import HeldOut
from antiphase.training.recipe import Recipe

# The held-out problems are the same for every seed of the training, so that runs can be compared.
EVAL_SEED = 0


def load_tokenizer(recipe: Recipe) -> tuple[Any, Any]:
    """Return the model's tokenizer and configuration, and check the model without loading its weights.

    Raises:
        InvalidInputError: the model is a GGUF file.
        ModelNotFoundError: there is no such model, or it has no tokenizer.
        UnsupportedModelError: the model has no attention projections that antiphase knows.
    """
    model = recipe.model
    if is_gguf(model.model_name_or_path):
        raise InvalidInputError(
            f"{model.model_name_or_path!r} is a GGUF file, whose weights cannot be trained. Name the model "
            "with weights in safetensors."
        )
    empty, tokenizer = inspect_model(
        model.model_name_or_path, trust_remote_code=recipe.config.trust_remote_code, revision=model.model_revision
    )
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    return tokenizer, cast(Any, empty).config


def draw_problems(recipe: Recipe) -> tuple[list[Problem], list[Problem]]:
    """Return the training problems and the held-out problems, which share no prompt.

    Raises:
        InvalidInputError: a task does not exist or has too few problems, or a problem would be in both lists.
    """
    options = recipe.options
    tasks = [load_task(spec).for_training() for spec in options.tasks]
    seed = recipe.config.seed if recipe.config.data_seed is None else recipe.config.data_seed
    training = [problem for task in tasks for problem in task.problems("train", options.num_problems, seed)]
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


def chat_options(recipe: Recipe, moment: str | None = None) -> ChatOptions:
    """Return the options with which the chat template renders the prompts of training and held-out problems.

    Args:
        recipe: the run's recipe.
        moment: the time that the template uses as the current time, in ISO format; None means the real time.
    """
    variables = cast("dict[str, Any] | None", recipe.config.chat_template_kwargs)
    return ChatOptions(variables, recipe.options.fold_system, moment=moment)


def table_of(recipe: Recipe, tokenizer: Any, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Return a data-set row for each problem.

    The prompts are chats if the recipe wants chats and the tokenizer has a chat template.

    Raises:
        InvalidInputError: the chat template does not use one of `chat_template_kwargs`, or some prompts, but not all,
            are chats that are already rendered as text.
    """
    options = recipe.options
    form = PromptFormat(options.prompt_template, options.system_prompt, options.chat_template, chat_options(recipe))
    check_used(form.chat.template_kwargs, options.chat_template)
    unknown = unused_variables(tokenizer, sorted(form.chat.template_kwargs or ()))
    if unknown:
        raise InvalidInputError(
            f"chat_template_kwargs: the model's chat template does not read {', '.join(unknown)}. A key "
            "that the template does not read has no effect. Correct the name of the key, or leave the key out."
        )
    rendered = [form.is_rendered(p.prompt, tokenizer, f"problem {p.problem_id}") for p in problems]
    if any(rendered) and not all(rendered):
        raise InvalidInputError(
            f"{sum(rendered)} of {len(rendered)} prompts are texts of rendered chats, and the others are not. Give "
            "all prompts in one form."
        )
    chat = form.makes_chats(tokenizer) and not any(rendered)
    table = rows(
        problems,
        system_prompt=options.system_prompt,
        prompt_template=options.prompt_template,
        chat=chat,
        fold_system=options.fold_system,
    )
    if not chat and tokenizer.bos_token is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        # TRL adds a BOS token to every text. A prompt that begins with one would then have two.
        for row in table:
            row["prompt"] = row["prompt"].removeprefix(tokenizer.bos_token)
    return table


def prompt_ids(
    tokenizer: Any, table: Sequence[Mapping[str, Any]], chat: ChatOptions | None = None
) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of the prompt of each data-set row; `chat` says how the chat template is called."""
    return tuple(
        tuple(prompt_token_ids(tokenizer, row["prompt"], f"problem {row['problem_id']}", chat)) for row in table
    )


def held_out(recipe: Recipe, tokenizer: Any, problems: Sequence[Problem], moment: str) -> HeldOut:
    """Return the held-out problems, and how completions of them are sampled.

    The sampling has the temperature, top_p and length limit of the training.

    Args:
        recipe: the run's recipe.
        tokenizer: the model's tokenizer.
        problems: the held-out problems.
        moment: the time that the chat template uses as the current time, in ISO format.
    """
    config = recipe.config
    sampling = Sampling(
        max_new_tokens=config.max_completion_length, temperature=config.temperature, top_p=config.top_p, seed=EVAL_SEED
    )
    return HeldOut(
        tuple(problems),
        prompt_ids(tokenizer, table_of(recipe, tokenizer, problems), chat_options(recipe, moment)),
        recipe.options.eval_samples,
        sampling,
        max(config.per_device_eval_batch_size, 16),
    )


def check_context(recipe: Recipe, model_config: Any, ids: Sequence[Sequence[int]]) -> None:
    """Raise InvalidInputError unless the longest prompt and the longest completion fit into the model's context."""
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    longest, new = max(map(len, ids)), recipe.config.max_completion_length
    if limit is not None and longest + (new or 0) > limit:
        raise InvalidInputError(
            f"prompts of up to {longest} tokens and max_completion_length {new} exceed the model's context of "
            f"{limit}. Lower max_completion_length, or shorten the prompts."
        )
