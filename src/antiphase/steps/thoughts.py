r"""What a reasoning model thinks, and what it answers: a completion is cut where its thought ends.

Pure string functions, linear in the length of the text. A thought that was begun and not ended leaves no answer,
whatever stands in it. Several families of models are known by their tags; a template may have opened the thought in
the prompt, so that the completion only closes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.errors import InvalidInputError

# (what opens a thought, what closes it), of the families in use.
TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
# The last family without its special tokens.
_FLAT_CHANNEL = re.compile(r"\s*analysis(?=[A-Z\d\"'(])")
_FLAT_FINAL = "assistantfinal"
# Each quotation mark with the one that ends it.
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "«": "»"}
# As many tokens of a prompt are read for a tag at its end, which may be a token for each byte.
_PROMPT_END = 64


def thought_tags(texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the tags of the known families, after those that a user adds.

    Args:
        texts: each holds an opening and a closing tag with white space between them, as in `<plan> </plan>`; None adds
            nothing.

    Raises:
        InvalidInputError: a text is not two different tags.

    >>> thought_tags(["<plan> </plan>"])[0]
    ('<plan>', '</plan>')
    """
    own = []
    for text in texts or ():
        pair = text.split()
        if len(pair) != 2 or pair[0] == pair[1]:
            raise InvalidInputError(
                f"think tags must be an opening and a closing tag with a space between, as in '<plan> </plan>'; got "
                f"{text!r}."
            )
        own.append((pair[0], pair[1]))
    return tuple(dict.fromkeys([*own, *TAGS]))


@dataclass(frozen=True)
class Spoken:
    """A completion, cut where its thought ends.

    Args:
        thought: the text of the thought, tags included; empty if there is none.
        answer: what follows the thought; None if the thought was begun and not ended.
    """

    thought: str
    answer: str | None


def spoken(completion: str, tags: Sequence[tuple[str, str]] = TAGS) -> Spoken:
    """Cut a completion where its thought ends.

    The last closing tag ends the thought. A closing tag in quotation marks is a mention and ends nothing. So is one in
    the middle of a sentence, as in `I close with </think> then`, where another closing tag is not. An opening
    tag counts at the beginning of the completion and of a line; in the middle of a line it is a mention. An opening
    tag that counts, with no closing tag after it, leaves no answer. The channels of gpt-oss are known also where
    decoding has removed their special tokens, as in `analysis…assistantfinal…`.

    Args:
        completion: the generated text, special tokens of the thought included.
        tags: what opens and what closes a thought.

    >>> spoken("<think>2 + 2</think>It is 4.")
    Spoken(thought='<think>2 + 2</think>', answer='It is 4.')
    >>> spoken("It is 5? No.</think>It is 4.").answer, spoken("<think>It is 4").answer, spoken("It is 4.").answer
    ('It is 4.', None, 'It is 4.')
    """
    ends = [(place, close) for _, close in tags for place in closing_places(completion, close)]
    plain = [place for place, close in ends if not _in_sentence(completion, place - len(close), place)]
    last = max((place for place, _ in ends), default=0)
    end = max(plain, default=last)
    end = last if opens(completion[end:last], tags) else end  # a second thought ends in the middle of a sentence
    begun = _FLAT_CHANNEL.match(completion)
    if begun is not None and end == 0:
        end = completion.rfind(_FLAT_FINAL) + len(_FLAT_FINAL) if _FLAT_FINAL in completion else len(completion)
    rest = completion[end:]
    if opens(rest, tags) or (begun is not None and end == len(completion)):
        return Spoken(completion, None)
    return Spoken(completion[:end], rest)


def closing_places(text: str, close: str) -> list[int]:
    """Where each closing tag in the text ends, in order. A tag in quotation marks is a mention and is left out."""
    ends = [found.end() for found in re.finditer(re.escape(close), text)] if close in text else []
    return [end for end in ends if _QUOTES.get(text[end - len(close) - 1 : end - len(close)]) != text[end : end + 1]]


def _in_sentence(text: str, start: int, end: int) -> bool:
    """Whether words of one sentence stand on both sides of a tag."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    goes_on = after[:1] in (".", ",", ";") or (after[:1] == " " and after[1:].islower())
    return len(before) == 2 and before[0].isalnum() and before[1] == " " and goes_on


def opens(text: str, tags: Sequence[tuple[str, str]] = TAGS) -> bool:
    """Whether a thought begins in the text: with a tag at its beginning, or at the beginning of a line."""
    return any(re.search(rf"(?m)^[^\S\n]*{re.escape(opening)}", text) for opening, _ in tags if opening in text)


def completion_text(
    tokenizer: Any,
    completion_ids: Sequence[int],
    prompt_ids: Sequence[int] = (),
    tags: Sequence[tuple[str, str]] = TAGS,
) -> str:
    """Return the text of a completion without special tokens, but with the tags of its thought.

    Some models' tags are special tokens, and some templates open the thought in the prompt. Both are put back.

    Args:
        tokenizer: the model's tokenizer.
        completion_ids: token ids of the completion.
        prompt_ids: token ids of its prompt.
        tags: what opens and what closes a thought.
    """
    text = str(tokenizer.decode(list(completion_ids), skip_special_tokens=True))
    whole = str(tokenizer.decode(list(completion_ids)))
    either = "|".join(re.escape(tag) for pair in tags for tag in pair)
    if len(re.findall(either, whole)) > len(re.findall(either, text)):
        special = "|".join(map(re.escape, _special_tokens(tokenizer)))
        parts = re.split(f"({either})", whole)
        text = "".join(part if place % 2 else re.sub(special, "", part) for place, part in enumerate(parts))
    opening = opened_in_prompt(tokenizer, prompt_ids, tags)
    return with_opening(text, opening or "", tags)


def opened_in_prompt(tokenizer: Any, prompt_ids: Sequence[int], tags: Sequence[tuple[str, str]] = TAGS) -> str | None:
    """Return the opening tag with which the prompt ends; None if it ends with no such tag.

    Args:
        tokenizer: the model's tokenizer.
        prompt_ids: the token ids of the prompt.
        tags: what opens and what closes a thought.
    """
    return _opening_at_end(str(tokenizer.decode(list(prompt_ids[-_PROMPT_END:]))), tags)


def _opening_at_end(prompt: str, tags: Sequence[tuple[str, str]]) -> str | None:
    end = prompt.rstrip()
    return next((opening for opening, _ in tags if end.endswith(opening)), None)


def _special_tokens(tokenizer: Any) -> list[str]:
    """Return the texts of all tokens that decoding leaves out, the longest first."""
    # Tokens may be added as special ones without being in `all_special_tokens`.
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {*map(str, tokenizer.all_special_tokens), *(token.content for token in added if token.special)}
    return sorted(found, key=len, reverse=True)


def with_opening(completion: str, prompt: str, tags: Sequence[tuple[str, str]] = TAGS) -> str:
    r"""Return the completion, after the opening tag with which its prompt ends.

    The completion is returned as it is if its prompt ends with no opening tag, or if it begins with that tag itself.

    >>> with_opening("2 + 2</think>It is 4.", "How much is 2 + 2? <think>\n")
    '<think>\n2 + 2</think>It is 4.'
    """
    opening = _opening_at_end(prompt, tags)
    return completion if opening is None or completion.lstrip().startswith(opening) else f"{opening}\n{completion}"
