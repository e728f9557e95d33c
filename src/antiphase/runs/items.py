"""The rollouts of a run as token ids, before and after the engine completes them, and the limits of a model."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphase.data.prompts import Messages
from antiphase.errors import InvalidInputError
from antiphase.rollouts.sampling_spec import Sampling


@dataclass(frozen=True)
class Item:
    """One rollout: a prompt and, after generation, its completion.

    Args:
        prompt_id: the id of the prompt, which several rollouts may share.
        rollout_id: the id of the rollout.
        prompt: the text of the prompt, as tables show it.
        prompt_ids: the token ids of the prompt.
        completion_ids: the token ids of the completion; None before it is generated.
        completion: the text of the completion; None before it is generated.
        finish: how the completion ended: `stop` with an end token, `length` at the length limit, `given` if it was
            given without this information.
    """

    prompt_id: str
    rollout_id: str
    prompt: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...] | None = None
    completion: str | None = None
    finish: str = "given"


@dataclass(frozen=True)
class Batch:
    """Rollouts that are generated, measured and written together.

    Args:
        items: the rollouts. Either all of them have completions, or none has.
        sampling: the sampling options.
        end_ids: ids of tokens that end a completion, in addition to the model's own end tokens.
        seeds: the seed of each rollout, from which its tokens are drawn. It may be empty if all rollouts have
            completions.
    """

    items: tuple[Item, ...]
    sampling: Sampling
    end_ids: tuple[int, ...]
    seeds: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def is_completed(self) -> bool:
        """Whether the rollouts have completions."""
        return self.items[0].completion_ids is not None

    @property
    def label(self) -> str:
        """A few words that the progress bar shows while the batch is generated. By default there are none."""
        return ""


@dataclass(frozen=True)
class Limits:
    """The limits of a model: token ids must be below `vocabulary`, and a rollout may have at most `context` tokens.

    `context` is None if the model's config names no limit.
    """

    vocabulary: int
    context: int | None

    @classmethod
    def of(cls, model: Any) -> "Limits":
        """Return the limits of a Hugging Face causal LM."""
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return cls(int(model.get_input_embeddings().weight.shape[0]), context)

    def check(self, item: "Item", place: str, num_new: int) -> None:
        """Raise InvalidInputError if the model cannot take the rollout with `num_new` more tokens.

        Args:
            item: the rollout.
            place: where its prompt was read, for error messages.
            num_new: the greatest number of tokens that will be generated.
        """
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
    """Return the rollout with its completion, as ids and as text, and with the reason why it finished."""
    return with_text(dataclasses.replace(item, completion_ids=tuple(completion_ids), finish=finish), tokenizer)


def with_text(item: Item, tokenizer: Any) -> Item:
    """Return the rollout with the text of its completion. A rollout without completion ids is returned unchanged."""
    if item.completion_ids is None:
        return item
    return dataclasses.replace(item, completion=str(tokenizer.decode(list(item.completion_ids))))


def prompt_text(content: str | Messages) -> str:
    """Return the text of a prompt for tables. A chat becomes one line for each message."""
    return content if isinstance(content, str) else "\n".join(f"{m['role']}: {m['content']}" for m in content)
