"""Makes a rollout from a server's answer: the token ids of its completion, and how the completion ended.

If the server returns token ids, they are used. If it returns only a text, the text is tokenised again here. Then two
things are noted in the rollout: whether the ids decode to the same text, and whether the server counted the same
number of tokens. A server's text does not contain the end token. So if the server says that the completion has ended,
the end token is added: the one that the server names, else the tokenizer's end token.
"""

from collections.abc import Sequence
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.rollouts.kept_rollouts import KeptRollout
from antiphase.rollouts.sampling import trim
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_protocol import Answer

_UNKNOWN = "�"


def rollout_of(
    answer: Answer, tokenizer: Any, ends: Sequence[int], sampling: Sampling, vocabulary: int
) -> KeptRollout:
    """Return the rollout that a server's answer contains.

    Args:
        answer: the server's answer.
        tokenizer: the tokenizer of the measured model.
        ends: the ids of the tokens that end a completion.
        sampling: the sampling options.
        vocabulary: the number of tokens that the measured model knows.

    Raises:
        InvalidInputError: a token id is not in the vocabulary, there is no token, or the completion ended neither with
            an end token nor at `max_new_tokens`.
    """
    if answer.finish not in ("stop", "length"):
        raise InvalidInputError(
            f"the server ended a completion with the finish reason {answer.finish!r}; expected 'stop' or 'length'. "
            "The server's log may say why."
        )
    if answer.ids is not None:
        return _of_ids(answer, answer.ids, ends, sampling, vocabulary)
    return _of_text(answer, tokenizer, ends, sampling)


def _of_ids(
    answer: Answer, found: Sequence[int], ends: Sequence[int], sampling: Sampling, vocabulary: int
) -> KeptRollout:
    alien = next((token for token in found if not 0 <= token < vocabulary), None)
    if alien is not None:
        raise InvalidInputError(
            f"the server returned the token id {alien}, but the vocabulary of the measured model has {vocabulary} "
            "tokens: the server has another model, or another tokenizer."
        )
    # A server that does not know `stop_token_ids` goes on after an end token of ours. The rest is cut off.
    ids, finish = trim(list(found), ends)
    if finish == "length" and answer.finish == "stop":
        if answer.end is None or answer.end not in ends:
            raise InvalidInputError(
                f"the server ended a completion with 'stop', but its last token is {ids[-1]} and the end tokens are "
                f"{list(ends)}: the server uses another end token. Give the text of this token with --end-token."
            )
        ids, finish = [*ids, answer.end], "stop"
    if finish == "length" and len(ids) != sampling.max_new_tokens:
        raise InvalidInputError(_cut(len(ids), sampling))
    return KeptRollout(tuple(ids), finish)


def _of_text(answer: Answer, tokenizer: Any, ends: Sequence[int], sampling: Sampling) -> KeptRollout:
    counted = answer.num_completion
    if answer.finish == "length" and counted is not None and counted < sampling.max_new_tokens:
        raise InvalidInputError(_cut(counted, sampling))
    ids, finish = trim(plain_ids(tokenizer, answer.text), ends)
    other_text = _UNKNOWN in answer.text or tokenizer.decode(ids) != answer.text
    if finish == "length" and answer.finish == "stop":
        if not ends:
            raise InvalidInputError(
                "the server ended a completion with 'stop', but the model has no end token. Name one with --end-token."
            )
        named = (answer.end, tokenizer.eos_token_id, ends[0])
        ids, finish = [*ids, next(end for end in named if end is not None and end in ends)], "stop"
    if not ids:
        raise InvalidInputError("the server returned a completion of no tokens.")
    other_length = counted is not None and len(ids) != counted
    if len(ids) > sampling.max_new_tokens:
        ids, finish = ids[: sampling.max_new_tokens], "length"
    return KeptRollout(tuple(ids), finish, retokenised=True, other_text=other_text, other_length=other_length)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text. No special tokens are added before or after it."""
    return [int(token) for token in tokenizer(text, add_special_tokens=False).input_ids]


def _cut(count: int, sampling: Sampling) -> str:
    return (
        f"the server cut a completion off at {count} of {sampling.max_new_tokens} tokens, where the context of the "
        "server's model ends. Lower --max-new-tokens, or raise the server's context length."
    )


def prompt_text(tokenizer: Any, ids: Sequence[int], row: int) -> str:
    """Return a text that a server's tokenizer turns into these token ids.

    A server tokenises a text as the tokenizer does by default: most tokenizers then add special tokens, such as one
    that begins a sequence. So both the whole decoded text and the text without its first token are tried.

    Args:
        tokenizer: the tokenizer of the measured model.
        ids: the token ids of the prompt.
        row: the index of the prompt in the batch, for the error message.

    Raises:
        InvalidInputError: no such text is found.
    """
    tries = [str(tokenizer.decode(list(part), skip_special_tokens=False)) for part in (ids, ids[1:])]
    made = [[int(token) for token in tokenizer(text).input_ids] for text in tries]
    for text, found in zip(tries, made, strict=True):
        if found == list(ids):
            return text
    raise InvalidInputError(
        f"prompt {row} cannot be sent to this server, which takes only text: the text of the prompt, tokenised again, "
        f"has other token ids ({first_difference(ids, made[0])}). Use a server that takes token ids, such as vLLM."
    )


def first_difference(expected: Sequence[int], found: Sequence[int]) -> str:
    """Return a text that says where two lists of token ids differ first, or that they are equal.

    >>> first_difference([1, 2, 3], [1, 5, 3]), first_difference([1, 2], [1])
    ('token 1 is 5, expected 2', 'token 1 is missing, expected 2')
    """
    for place in range(max(len(expected), len(found))):
        wanted = expected[place] if place < len(expected) else "no token"
        got = found[place] if place < len(found) else "missing"
        if wanted != got:
            return f"token {place} is {got}, expected {wanted}"
    return "they are equal"
