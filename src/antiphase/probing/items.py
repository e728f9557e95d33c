"""The rollouts of a run before they are measured: what to generate, or what was given, as token ids."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.data.given_rollouts import GivenRollout, load_rollouts
from antiphase.data.prompt_rendering import encode_rollout
from antiphase.data.prompts import Messages, Prompt, load_prompts
from antiphase.errors import InvalidInputError
from antiphase.probing.probe_config import ProbeConfig


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

    def digest(self) -> str:
        """Of everything that it holds, to tell on resume whether it is the same."""
        return hashlib.sha256(repr((self.prompts, self.rollouts)).encode()).hexdigest()


def load_source(config: ProbeConfig, rollouts: Any = None) -> Source:
    """Read prompts or rollouts.

    Args:
        config: of the probe.
        rollouts: rows in memory, as `load_rollouts` takes them.

    Raises:
        InvalidInputError: see `load_prompts` and `load_rollouts`.
    """
    given = config.rollouts if rollouts is None else rollouts
    if given is not None:
        return Source(rollouts=load_rollouts(given, config.prompt_limit))
    exact = config.num_prompts is not None
    return Source(prompts=load_prompts(config.prompts, config.prompt_limit, config.prompt_column, exact=exact))


@dataclass(frozen=True)
class Limits:
    """What a model can take: ids below `vocabulary`, and rows of at most `context` tokens (None: no limit known)."""

    vocabulary: int
    context: int | None

    @classmethod
    def of(cls, model: Any) -> "Limits":
        """Of a Hugging Face causal LM."""
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return cls(int(model.get_input_embeddings().weight.shape[0]), context)

    def check(self, item: "Item", place: str, num_new: int) -> None:
        """Raise InvalidInputError if the item's ids, with `num_new` more, do not fit."""
        ids = (*item.prompt_ids, *(item.completion_ids or ()))
        if max(ids) >= self.vocabulary:
            raise InvalidInputError(
                f"{place}: token id {max(ids)} is not in the model's vocabulary of {self.vocabulary}. Were the ids "
                "made by another tokenizer?"
            )
        if self.context is not None and len(ids) + num_new > self.context:
            more = f" and up to {num_new} new ones" if num_new else ""
            raise InvalidInputError(
                f"{place}: {len(ids)} tokens{more} exceed the model's context of {self.context}. Shorten the text, or "
                "lower --max-new-tokens."
            )


def items_for(source: Source, tokenizer: Any, limits: Limits, config: ProbeConfig) -> list[Item]:
    """The rollouts of one model, encoded by its tokenizer.

    Raises:
        InvalidInputError: a prompt without tokens, a given completion of fewer than `min_tokens`, or ids that the
            model cannot take.
    """
    form = config.prompt_format()
    items = []
    for prompt in source.prompts:
        place = f"prompt {prompt.prompt_id}"
        ids = tuple(form.encode(tokenizer, prompt.content, place))
        for sample in range(config.samples):
            items.append(Item(prompt.prompt_id, f"{prompt.prompt_id}/{sample}", _text(prompt.content), ids))
        limits.check(items[-1], place, config.max_new_tokens)
    for rollout in source.rollouts:
        prompt_ids, completion_ids = encode_rollout(tokenizer, rollout, form)
        if len(completion_ids) < config.min_tokens and not config.allow_short:
            raise InvalidInputError(
                f"{rollout.place} has {len(completion_ids)} completion tokens; correlation needs at least "
                f"{config.min_tokens}. Lengthen it, lower --min-tokens, or count it as undefined with --allow-short."
            )
        text = _text(rollout.prompt) if rollout.prompt is not None else str(tokenizer.decode(prompt_ids))
        items.append(Item(rollout.prompt_id, rollout.rollout_id, text, tuple(prompt_ids), tuple(completion_ids)))
        limits.check(items[-1], rollout.place, 0)
    return [_with_text(item, tokenizer) for item in items]


def shared_items(
    rows: Sequence[Mapping[str, Any]], items: Sequence[Item], tokenizer: Any, first_tokenizer: Any
) -> list[Item]:
    """Items of a further model completed with the first model's rollouts.

    Ids carry over where both tokenizers have one vocabulary. Else the text is tokenised anew, without the first
    model's special tokens; a rollout that the first model ended is ended with this tokenizer's end token.

    Args:
        rows: the first model's rows of rollouts.parquet.
        items: the further model's items, with their prompts as its own tokenizer sees them.
        tokenizer, first_tokenizer: of the further model and of the first.
    """
    by_id = {row["rollout_id"]: row for row in rows}
    same = first_tokenizer.get_vocab() == tokenizer.get_vocab()
    shared = []
    for item in items:
        row = by_id[item.rollout_id]
        ids = row["completion_ids"]
        if not same:
            text = str(first_tokenizer.decode(ids, skip_special_tokens=True))
            ids = tokenizer(text, add_special_tokens=False).input_ids
            if row["finish"] == "stop" and tokenizer.eos_token_id is not None:
                ids = [*ids, tokenizer.eos_token_id]
        shared.append(completed(item, [int(token) for token in ids], row["finish"], tokenizer))
    return shared


def completed(item: Item, completion_ids: Sequence[int], finish: str, tokenizer: Any) -> Item:
    """The item with its generated completion."""
    return _with_text(dataclasses.replace(item, completion_ids=tuple(completion_ids), finish=finish), tokenizer)


def _with_text(item: Item, tokenizer: Any) -> Item:
    if item.completion_ids is None:
        return item
    return dataclasses.replace(item, completion=str(tokenizer.decode(list(item.completion_ids))))


def _text(content: str | Messages) -> str:
    return content if isinstance(content, str) else "\n".join(f"{m['role']}: {m['content']}" for m in content)
