"""The rollouts of a run before they are measured: what to generate, or what was given, as token ids."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.data.prompts import Messages, Prompt, load_prompts
from antiphase.data.rendering import encode_rollout
from antiphase.data.rollouts import GivenRollout, load_rollouts
from antiphase.errors import InvalidInputError
from antiphase.probing.config import ProbeConfig


@dataclass(frozen=True)
class Item:
    """One rollout: its prompt, and its completion once there is one."""

    prompt_id: str
    rollout_id: str
    prompt: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...] | None = None
    completion: str | None = None
    finish: str = "given"


@dataclass(frozen=True)
class Source:
    """Where the rollouts of every model come from: prompts to complete, or given rollouts."""

    prompts: Sequence[Prompt] = ()
    rollouts: Sequence[GivenRollout] = ()


def load_source(config: ProbeConfig, rollouts: Sequence[Mapping[str, Any]] | None = None) -> Source:
    """Read prompts or rollouts.

    Raises:
        InvalidInputError: see `load_prompts` and `load_rollouts`.
    """
    given = config.rollouts if rollouts is None else rollouts
    if given is not None:
        return Source(rollouts=load_rollouts(given, config.prompt_limit(given=True)))
    return Source(prompts=load_prompts(config.prompts, config.prompt_limit(given=False), config.prompt_column))


def items_for(source: Source, tokenizer: Any, config: ProbeConfig) -> list[Item]:
    """The rollouts of one model, encoded by its tokenizer.

    Raises:
        InvalidInputError: a prompt without tokens, or a given completion of fewer than `min_tokens`.
    """
    form = config.prompt_format()
    items = []
    for prompt in source.prompts:
        ids = tuple(form.encode(tokenizer, prompt.content, f"prompt {prompt.prompt_id}"))
        for sample in range(config.samples):
            items.append(Item(prompt.prompt_id, f"{prompt.prompt_id}/{sample}", _text(prompt.content), ids))
    for rollout in source.rollouts:
        prompt_ids, completion_ids = encode_rollout(tokenizer, rollout, form)
        if len(completion_ids) < config.min_tokens and not config.allow_short:
            raise InvalidInputError(
                f"{rollout.place} has {len(completion_ids)} completion tokens; correlation needs at least "
                f"{config.min_tokens}. Lengthen it, lower --min-tokens, or count it as undefined with --allow-short."
            )
        text = _text(rollout.prompt) if rollout.prompt is not None else str(tokenizer.decode(prompt_ids))
        items.append(Item(rollout.prompt_id, rollout.rollout_id, text, tuple(prompt_ids), tuple(completion_ids)))
    return [_with_text(item, tokenizer) for item in items]


def shared_items(rows: Sequence[Mapping[str, Any]], items: Sequence[Item], tokenizer: Any, same: bool) -> list[Item]:
    """Items of a further model completed with the first model's rollouts.

    Args:
        rows: the first model's rows of rollouts.parquet.
        items: the further model's items, with their prompts as its own tokenizer sees them.
        tokenizer: of the further model.
        same: both tokenizers have one vocabulary, so the ids carry over; else the text is tokenised anew.
    """
    by_id = {row["rollout_id"]: row for row in rows}
    completed = []
    for item in items:
        row = by_id[item.rollout_id]
        ids = row["completion_ids"] if same else tokenizer(row["completion"], add_special_tokens=False).input_ids
        completed.append(dataclasses.replace(item, completion_ids=tuple(int(i) for i in ids), finish=row["finish"]))
    return [_with_text(item, tokenizer) for item in completed]


def completed(item: Item, completion_ids: Sequence[int], finish: str, tokenizer: Any) -> Item:
    """The item with its generated completion."""
    return _with_text(dataclasses.replace(item, completion_ids=tuple(completion_ids), finish=finish), tokenizer)


def _with_text(item: Item, tokenizer: Any) -> Item:
    if item.completion_ids is None:
        return item
    return dataclasses.replace(item, completion=str(tokenizer.decode(list(item.completion_ids))))


def _text(content: str | Messages) -> str:
    return content if isinstance(content, str) else "\n".join(f"{m['role']}: {m['content']}" for m in content)
