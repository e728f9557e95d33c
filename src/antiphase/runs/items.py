"""The rollouts of a run as token ids, before and after they are completed, and what a model can take."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphase.data.prompts import Messages
from antiphase.errors import InvalidInputError
from antiphase.rollouts.sampling_spec import Sampling


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
class Batch:
    """Rollouts that are completed, measured and written together.

    Args:
        items: the rollouts; all of them are completed, or none is.
        sampling: how they are completed.
        end_ids: tokens that end a completion besides the model's own end tokens.
        draw: the number of which the batch's seed is made; None takes the batch's place in the run.
    """

    items: tuple[Item, ...]
    sampling: Sampling
    end_ids: tuple[int, ...]
    draw: int | None = field(default=None, kw_only=True)

    @property
    def is_completed(self) -> bool:
        """Whether the rollouts have their completions."""
        return self.items[0].completion_ids is not None

    @property
    def label(self) -> str:
        """What the progress bar says is being completed."""
        return ""


@dataclass(frozen=True)
class Limits:
    """What a model can take: token ids below `vocabulary`, and at most `context` tokens (None: no limit is known)."""

    vocabulary: int
    context: int | None

    @classmethod
    def of(cls, model: Any) -> "Limits":
        """The limits of a Hugging Face causal LM."""
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


def completed(item: Item, completion_ids: Sequence[int], finish: str, tokenizer: Any) -> Item:
    """The item with its generated completion."""
    return with_text(dataclasses.replace(item, completion_ids=tuple(completion_ids), finish=finish), tokenizer)


def with_text(item: Item, tokenizer: Any) -> Item:
    """The item with its completion as text, where it has one."""
    if item.completion_ids is None:
        return item
    return dataclasses.replace(item, completion=str(tokenizer.decode(list(item.completion_ids))))


def prompt_text(content: str | Messages) -> str:
    """A prompt as tables show it: a chat has a line for each message."""
    return content if isinstance(content, str) else "\n".join(f"{m['role']}: {m['content']}" for m in content)
