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

    The last closing tag ends the thought. An opening tag counts at the beginning of the completion and of a line; in
    the middle of a line it is a mention. An opening tag that counts, with no closing tag after it, leaves no answer.

    Args:
        completion: the generated text, special tokens of the thought included.
        tags: what opens and what closes a thought.

    >>> spoken("<think>2 + 2</think>It is 4.")
    Spoken(thought='<think>2 + 2</think>', answer='It is 4.')
    >>> spoken("It is 5? No.</think>It is 4.").answer, spoken("<think>It is 4").answer, spoken("It is 4.").answer
    ('It is 4.', None, 'It is 4.')
    """
    end = max((completion.rfind(close) + len(close) for _, close in tags if close in completion), default=0)
    rest = completion[end:]
    if _begins(rest, tags):
        return Spoken(completion, None)
    return Spoken(completion[:end], rest)


def _begins(text: str, tags: Sequence[tuple[str, str]]) -> bool:
    """Whether a thought begins in the text: with a tag at its beginning, or at the beginning of a line."""
    return any(re.search(rf"(?m)^[^\S\n]*{re.escape(opening)}", text) for opening, _ in tags if opening in text)


def completion_text(tokenizer: Any, completion_ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> str:
    """The text of a completion as a verifier reads it: without special tokens, but with the tags of its thought.

    Some models' tags are special tokens, and some templates open the thought in the prompt. Both are put back.

    Args:
        tokenizer: of the model.
        completion_ids: of the completion.
        prompt_ids: of its prompt.
    """
    text = str(tokenizer.decode(list(completion_ids), skip_special_tokens=True))
    whole = str(tokenizer.decode(list(completion_ids)))
    tags = "|".join(re.escape(tag) for pair in TAGS for tag in pair)
    if len(re.findall(tags, whole)) > len(re.findall(tags, text)):
        special = "|".join(re.escape(str(token)) for token in tokenizer.all_special_tokens)
        parts = re.split(f"({tags})", whole)
        text = "".join(part if place % 2 else re.sub(special, "", part) for place, part in enumerate(parts))
    opening = opened_in_prompt(tokenizer, prompt_ids)
    return text if opening is None or text.lstrip().startswith(opening) else f"{opening}\n{text}"


def opened_in_prompt(tokenizer: Any, prompt_ids: Sequence[int], tags: Sequence[tuple[str, str]] = TAGS) -> str | None:
    """Return the opening tag with which the prompt ends; None if it ends with no such tag.

    Args:
        tokenizer: the model's tokenizer.
        prompt_ids: the token ids of the prompt.
        tags: what opens and what closes a thought.
    """
    end = str(tokenizer.decode(list(prompt_ids[-32:]))).rstrip()
    return next((opening for opening, _ in tags if end.endswith(opening)), None)
