"""Read the prompts or the given rollouts of a probe, and encode them for each model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.data.given_rollouts import GivenRollout, load_rollouts
from antiphase.data.prompt_rendering import encode_rollout
from antiphase.data.prompts import Prompt, load_prompts
from antiphase.errors import InvalidInputError
from antiphase.probing.probe_config import ProbeConfig
from antiphase.runs.items import Item, Limits, completed, prompt_text, with_text


@dataclass(frozen=True)
class Source:
    """The source of the rollouts: either prompts or given rollouts. It is the same for all models."""

    prompts: Sequence[Prompt] = ()
    rollouts: Sequence[GivenRollout] = ()

    def digest(self) -> str:
        """Return a digest of the prompts or rollouts. If it has changed, a run cannot be continued."""
        return hashlib.sha256(repr((self.prompts, self.rollouts)).encode()).hexdigest()


def load_source(config: ProbeConfig, rollouts: Any = None) -> Source:
    """Read the prompts or the given rollouts.

    Args:
        config: the options of the probe.
        rollouts: given rollouts, in any form that `load_rollouts` takes. If None, the prompts or rollouts that the
            options name are read.

    Raises:
        InvalidInputError: `load_prompts` or `load_rollouts` refuses the content.
    """
    given = config.rollouts if rollouts is None else rollouts
    if given is not None:
        return Source(rollouts=load_rollouts(given, config.prompt_limit))
    exact = config.num_prompts is not None
    return Source(prompts=load_prompts(config.prompts, config.prompt_limit, config.prompt_column, exact=exact))


def items_for(source: Source, tokenizer: Any, limits: Limits, config: ProbeConfig, moment: str) -> list[Item]:
    """Return the items that are measured on one model, encoded by its tokenizer.

    An item is a given rollout, or a prompt for which the model must still generate the completion.

    Args:
        source: the prompts or the given rollouts.
        tokenizer: the model's tokenizer.
        limits: the greatest token id and the greatest length that the model can take.
        config: the options of the probe.
        moment: the time, in ISO format, that a chat template reads when it asks for the time.

    Raises:
        InvalidInputError: a prompt has no tokens, a given completion has fewer than `min_tokens` tokens, or the model
            cannot take the token ids or the length.
    """
    form = config.prompt_format(moment)
    items = []
    for prompt in source.prompts:
        place = f"prompt {prompt.prompt_id}"
        ids = tuple(form.encode(tokenizer, prompt.content, place))
        for sample in range(config.samples):
            items.append(Item(prompt.prompt_id, f"{prompt.prompt_id}/{sample}", prompt_text(prompt.content), ids))
        limits.check(items[-1], place, config.max_new_tokens)
    for rollout in source.rollouts:
        prompt_ids, completion_ids = encode_rollout(tokenizer, rollout, form)
        if len(completion_ids) < config.min_tokens and not config.allow_short:
            raise InvalidInputError(
                f"{rollout.place} has {len(completion_ids)} completion tokens; correlation needs at least "
                f"{config.min_tokens}. Lengthen the completion or lower --min-tokens. Or give --allow-short, which "
                "counts the correlation of a short completion as undefined."
            )
        text = prompt_text(rollout.prompt) if rollout.prompt is not None else str(tokenizer.decode(prompt_ids))
        items.append(Item(rollout.prompt_id, rollout.rollout_id, text, tuple(prompt_ids), tuple(completion_ids)))
        limits.check(items[-1], rollout.place, 0)
    return [with_text(item, tokenizer) for item in items]


def shared_items(
    rows: Sequence[Mapping[str, Any]], items: Sequence[Item], tokenizer: Any, first_tokenizer: Any
) -> list[Item]:
    """Return the rollouts of another model with the completions of the first model.

    If both tokenizers have the same vocabulary, the token ids are kept. Otherwise the tokenizer of the other model
    encodes the text of the completion without special tokens. If the first model ended the completion with an end
    token, the end token of the other tokenizer is added.

    Args:
        rows: the first model's rows of rollouts.parquet.
        items: the rollouts of the other model, whose prompts its own tokenizer has encoded.
        tokenizer: the tokenizer of the other model.
        first_tokenizer: the tokenizer of the first model.
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
