"""Makes texts of completions from their token ids, for rewards that must find the thought in a completion.

A thought is the part in which the model thinks before it answers, such as the text between `<think>` and `</think>`.
TRL decodes completions without special tokens, or parses them into messages. In both cases the tag that ends a thought
can be lost. The texts that are made here keep the tags, and go to rewards of the class `ReadingReward`. The user's own
reward functions get the texts or messages that TRL made.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.steps import thoughts
from antiphase.tasks.task_rewards import completion_text, last_message


class CompletionReader:
    """The completions of one generation batch, with their texts and how each of them ended.

    Args:
        completions: the completions as TRL gives them to reward functions: texts, or lists of chat messages.
        rollouts: the token ids of the completions and of their prompts.
        tokenizer: the policy's tokenizer.
        end_ids: ids of the tokens that end a completion; a None among them is ignored.
        limit: the greatest number of tokens of a completion; None if there is no limit.

    Attributes:
        rollouts: the token ids of the completions and of their prompts, as they were given.
        finishes: how each completion ended: `length` if it has no end token and reached the limit, else `stop`.
        logged: a mapping from names to the metrics that `ReadingReward` functions have logged for the batch.
    """

    def __init__(
        self,
        completions: Sequence[Any],
        rollouts: RolloutIds,
        tokenizer: Any,
        end_ids: Collection[int | None],
        limit: int | None,
    ) -> None:
        self._completions, self.rollouts, self._tokenizer = completions, rollouts, tokenizer
        self.finishes = [
            "length" if ids and ids[-1] not in end_ids and limit is not None and len(ids) >= limit else "stop"
            for ids in rollouts.completion_ids
        ]
        self.logged: dict[str, float] = {}
        self._known: dict[tuple[tuple[str, str], ...], list[str]] = {}

    def arguments(self, given: Mapping[str, Any], tags: tuple[tuple[str, str], ...]) -> dict[str, Any]:
        """Return the arguments with which a `ReadingReward` is called.

        They are TRL's arguments with three changes: `completions` are the texts that this reader makes, `finishes` is
        added, and `log_metric` also stores each metric in `logged`.

        Args:
            given: the arguments with which TRL calls reward functions.
            tags: pairs of the tag that opens a thought and the tag that closes it.
        """
        log = given.get("log_metric")

        def log_metric(name: str, value: float) -> None:
            self.logged[name] = value
            if log is not None:
                log(name, value)

        return {**given, "completions": self.texts(tags), "finishes": self.finishes, "log_metric": log_metric}

    def texts(self, tags: tuple[tuple[str, str], ...]) -> list[str]:
        """Return the texts of the completions, in which the tags of thoughts are kept."""
        if tags not in self._known:
            self._known[tags] = [self._text(place, tags) for place in range(len(self._completions))]
        return self._known[tags]

    def _text(self, place: int, tags: Sequence[tuple[str, str]]) -> str:
        completion = self._completions[place]
        prompt, ids = self.rollouts.prompt_ids[place], self.rollouts.completion_ids[place]
        if isinstance(completion, list):
            message = last_message(completion)
            if message is None or message.get("tool_calls"):
                return completion_text(completion)
            if len(completion) > 1 and self.rollouts.generated is not None:
                start, stop = _last_run(self.rollouts.generated[place])
                prompt, ids = [*prompt, *ids[:start]], ids[start:stop]
        text = thoughts.completion_text(self._tokenizer, ids, prompt, tags)
        # If the text has none of the tags, TRL may have parsed a thought with other tags, so its text is used.
        return text if any(tag in text for pair in tags for tag in pair) else completion_text(completion)


def _last_run(generated: Sequence[int]) -> tuple[int, int]:
    """Find the last piece of a completion that the model wrote without a tool in between.

    Args:
        generated: for each token, 1 if the model wrote it, and 0 if a tool did.

    Returns:
        the index of the first token of this piece, and the index after its last token.
    """
    stop = len(generated)
    while stop and not generated[stop - 1]:
        stop -= 1
    start = stop
    while start and generated[start - 1]:
        start -= 1
    return start, stop
