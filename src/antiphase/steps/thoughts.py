r"""Cut a completion of a reasoning model into its thought and its answer.

The functions read texts only, in time that is linear in the length of the text. `segments` makes the same cut between
tokens. The tags of several families of models are known. A chat template may have opened the thought in the prompt;
the completion then has only the closing tag. If a thought was begun and not ended, the completion has no answer.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.errors import InvalidInputError

# Each pair is the tag that opens a thought and the tag that closes it, for one or several families of models.
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
_CHANNEL = ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
# A header of gpt-oss may name a recipient and a format between the channel and the message.
_HEADER = r"(?:[^<\n]{0,200}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>)"
# What is left of the last family's tags after decoding has removed the special tokens.
_FLAT_CHANNEL = re.compile(r"\s*(?:analysis|commentary)(?:\s+to=[\w.]{1,60}?)?\s?(?=[A-Z\d\"'({])")
_FLAT_FINAL = "assistantfinal"
# Each quotation mark with the one that ends it.
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "«": "»"}
# The number of tokens at the end of a prompt that are searched for a tag. Every byte of the tag may be a token.
_PROMPT_END = 64


def thought_tags(texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return pairs of an opening and a closing tag: those that a user adds, then those of known families of models.

    Args:
        texts: each text is an opening and a closing tag with white space between them, as in `<plan> </plan>`. If None
            is given, only the known tags are returned.

    Raises:
        InvalidInputError: a text is not two different tags, or it gives a known opening tag a new closing tag.

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
        known = next((close for opening, close in TAGS if opening == pair[0]), pair[1])
        if known != pair[1]:
            raise InvalidInputError(
                f"think tags: {pair[0]} is closed by {known}, not by {pair[1]}; got {text!r}. Choose another opening "
                "tag."
            )
        own.append((pair[0], pair[1]))
    return tuple(dict.fromkeys([*own, *TAGS]))


@functools.lru_cache(maxsize=256)
def tag_pattern(tag: str) -> str:
    """Return a regular expression, without groups, that matches a tag in all the ways in which models write it.

    In a known tag such as `<think>`, capital letters, spaces and bars make no difference: `<THINK>`, `<think >` and
    `<|think|>` match too. gpt-oss has no such tags; a header begins each of its channels. Its channels `analysis` and
    `commentary` both count as a thought. A header may name a recipient, as in
    `<|channel|>analysis to=python<|message|>`.
    """
    if tag == _CHANNEL[0]:
        return rf"<\|channel\|>(?:analysis|commentary)\b{_HEADER}?"
    if tag == _CHANNEL[1]:
        return rf"<\|channel\|>final\b{_HEADER}"
    name = re.fullmatch(r"<(/?)([a-z]+)>", tag)
    if name is None or not any(tag in pair for pair in TAGS):
        return re.escape(tag)
    slash = r"/[ \t]{0,3}\|?[ \t]{0,3}" if name[1] else ""
    return rf"(?i:<[ \t]{{0,3}}\|?[ \t]{{0,3}}{slash}{name[2]}[ \t]{{0,3}}\|?[ \t]{{0,3}}>)"


def either_tag(tags: Sequence[tuple[str, str]]) -> str:
    """Return a regular expression, without groups, that matches any of the opening and closing tags."""
    return "|".join(tag_pattern(tag) for pair in tags for tag in pair)


@dataclass(frozen=True)
class Spoken:
    """The two parts of a completion.

    Args:
        thought: the text of the thought, tags included; empty if there is none.
        answer: the text after the thought; None if the thought was begun and not ended.
    """

    thought: str
    answer: str | None


def spoken(completion: str, tags: Sequence[tuple[str, str]] = TAGS) -> Spoken:
    """Cut a completion into its thought and its answer.

    The last closing tag ends the thought. But a closing tag that the text only mentions is ignored. A tag in quotation
    marks is a mention. So is a tag in the middle of a sentence, as in `I close with </think> then`, unless every
    closing tag of the completion stands in the middle of a sentence.

    An opening tag counts only at the beginning of the completion or of a line, or at the end of a line. If no closing
    tag follows it, the completion has no answer. The channels of gpt-oss are also found in a text whose special tokens
    were removed, as in `analysis…assistantfinal…`.

    Args:
        completion: the generated text. If the tags of the thought are special tokens, the text must contain them.
        tags: pairs of an opening and a closing tag.

    >>> spoken("<think>2 + 2</think>It is 4.")
    Spoken(thought='<think>2 + 2</think>', answer='It is 4.')
    >>> spoken("It is 5? No.</think>It is 4.").answer, spoken("<think>It is 4").answer, spoken("It is 4.").answer
    ('It is 4.', None, 'It is 4.')
    """
    spans = [span for _, close in tags for span in closing_spans(completion, close)]
    plain = [end for start, end in spans if not _in_sentence(completion, start, end)]
    last = max((end for _, end in spans), default=0)
    end = max(plain, default=last)
    end = last if opens(completion[end:last], tags) else end  # A second thought ends in the middle of a sentence.
    begun = _FLAT_CHANNEL.match(completion)
    if begun is not None and end == 0:
        end = completion.rfind(_FLAT_FINAL) + len(_FLAT_FINAL) if _FLAT_FINAL in completion else len(completion)
    rest = completion[end:]
    if opens(rest, tags) or (begun is not None and end == len(completion)):
        return Spoken(completion, None)
    return Spoken(completion[:end], rest)


def closing_spans(text: str, close: str) -> list[tuple[int, int]]:
    """Return (start, end) of each closing tag of the text, in order. Tags in quotation marks are left out."""
    spans = [found.span() for found in re.finditer(tag_pattern(close), text)]
    return [
        (start, end) for start, end in spans if _QUOTES.get(text[max(0, start - 1) : start]) != text[end : end + 1]
    ]


def _in_sentence(text: str, start: int, end: int) -> bool:
    """Return whether the tag at [start, end) has words of one sentence on both sides, as in `I use </think> to`."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    goes_on = after[:1] in (".", ",", ";") or (after[:1] == " " and after[1:].islower())
    return len(before) == 2 and before[0].isalnum() and before[1] == " " and goes_on


def opens(text: str, tags: Sequence[tuple[str, str]] = TAGS) -> bool:
    """Return whether an opening tag stands at the beginning of the text, or at the beginning or the end of a line."""
    return any(_opening_pattern(opening).search(text) is not None for opening, _ in tags)


@functools.lru_cache(maxsize=256)
def _opening_pattern(opening: str) -> re.Pattern[str]:
    """Return a regular expression that matches an opening tag only where it begins a thought.

    An opening tag begins a thought only at the beginning or the end of a line.
    """
    tag = tag_pattern(opening)
    turn = rf"|<\|start\|>assistant[^\S\n]*{tag}" if opening == _CHANNEL[0] else ""
    return re.compile(rf"(?m)^[^\S\n]*{tag}|{tag}[^\S\n]*\n{turn}")


def completion_text(
    tokenizer: Any,
    completion_ids: Sequence[int],
    prompt_ids: Sequence[int] = (),
    tags: Sequence[tuple[str, str]] = TAGS,
) -> str:
    """Return the text of a completion without special tokens, but with the tags of its thought.

    Tags that are special tokens are kept. If the thought begins in the prompt, because the chat template wrote the
    opening tag there, the tag is put before the text.

    Args:
        tokenizer: the model's tokenizer.
        completion_ids: the token ids of the completion.
        prompt_ids: the token ids of the prompt.
        tags: pairs of an opening and a closing tag.
    """
    text = str(tokenizer.decode(list(completion_ids), skip_special_tokens=True))
    whole = str(tokenizer.decode(list(completion_ids)))
    either = either_tag(tags)
    if len(re.findall(either, whole)) > len(re.findall(either, text)):
        special = "|".join(map(re.escape, _special_tokens(tokenizer)))
        parts = re.split(f"({either})", whole)
        text = "".join(part if place % 2 else re.sub(special, "", part) for place, part in enumerate(parts))
    opening = opened_in_prompt(tokenizer, prompt_ids, tags)
    return with_opening(text, opening or "", tags)


def opened_in_prompt(tokenizer: Any, prompt_ids: Sequence[int], tags: Sequence[tuple[str, str]] = TAGS) -> str | None:
    """Return the opening tag of a thought that begins in the prompt and does not end there; None if there is none.

    Many chat templates end a prompt with the opening tag. If the chat ends with a message that the model continues,
    the first words of the thought may follow the opening tag. Tags in earlier messages do not count.

    Args:
        tokenizer: the model's tokenizer.
        prompt_ids: the token ids of the prompt.
        tags: pairs of an opening and a closing tag.
    """
    ids = [int(token) for token in prompt_ids]
    at_end = _opening_at_end(str(tokenizer.decode(ids[-_PROMPT_END:])), tags)
    if at_end is not None:
        return at_end
    # The last message stands behind the last control token that is neither a tag nor BOS.
    others = {tokenizer.bos_token, *(tag for pair in tags for tag in pair)}
    controls = {token for text, token in tokenizer.get_added_vocab().items() if text not in others}
    last = max((place for place, token in enumerate(ids) if token in controls), default=None)
    if last is None:
        return None
    message = str(tokenizer.decode(ids[last + 1 :]))
    begun = [opening for opening, _ in tags if opening in message]
    return max(begun, key=message.rfind) if begun and spoken(message, tags).answer is None else None


def _special_tokens(tokenizer: Any) -> list[str]:
    """Return the texts of all special tokens of a tokenizer, the longest first."""
    # A tokenizer may have added special tokens that are not in `all_special_tokens`.
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {*map(str, tokenizer.all_special_tokens), *(token.content for token in added if token.special)}
    return sorted(found, key=len, reverse=True)


def with_opening(completion: str, prompt: str, tags: Sequence[tuple[str, str]] = TAGS) -> str:
    r"""Put the opening tag that stands at the end of the prompt before the completion, and return the result.

    The completion is returned unchanged if the prompt does not end with an opening tag, or if the completion itself
    begins with this tag.

    >>> with_opening("2 + 2</think>It is 4.", "How much is 2 + 2? <think>\n")
    '<think>\n2 + 2</think>It is 4.'
    """
    opening = _opening_at_end(prompt, tags)
    return completion if opening is None or completion.lstrip().startswith(opening) else f"{opening}\n{completion}"


def _opening_at_end(prompt: str, tags: Sequence[tuple[str, str]]) -> str | None:
    end = prompt.rstrip()[-300:]
    found = (re.search(rf"(?:{tag_pattern(opening)})\Z", end) for opening, _ in tags)
    return next((match[0] for match in found if match is not None), None)
