r"""What a reasoning model thinks, and what it answers: a completion is cut where its thought ends.

Pure string functions, linear in the length of the text. A thought that was begun and not ended leaves no answer,
whatever stands in it. Several families of models are known by their tags; a template may have opened the thought in
the prompt, so that the completion only closes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# (what opens a thought, what closes it), of the families in use.
TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)


@dataclass(frozen=True)
class Spoken:
    """A completion, cut where its thought ends.

    Args:
        thought: the text of the thought, tags included; empty if there is none.
        answer: what follows the thought; None if the thought was begun and not ended.
    """

    thought: str
    answer: str | None


def spoken(completion: str, tags: Sequence[tuple[str, str]] = TAGS, *, opened: bool = False) -> Spoken:
    """Cut a completion where its thought ends.

    The last closing tag ends the thought. An opening tag counts at the beginning of the completion and of a line; in
    the middle of a line it is a mention. An opening tag that counts, with no closing tag after it, leaves no answer.

    Args:
        completion: the generated text, special tokens of the thought included.
        tags: what opens and what closes a thought.
        opened: whether the prompt has opened the thought already, so that without a closing tag all is thought.

    >>> spoken("<think>2 + 2</think>It is 4.")
    Spoken(thought='<think>2 + 2</think>', answer='It is 4.')
    >>> spoken("It is 5? No.</think>It is 4.").answer, spoken("<think>It is 4").answer, spoken("It is 4.").answer
    ('It is 4.', None, 'It is 4.')
    >>> spoken("It is 4", opened=True).answer is None
    True
    """
    end = max((completion.rfind(close) + len(close) for _, close in tags if close in completion), default=0)
    if end == 0 and opened:
        return Spoken(completion, None)
    rest = completion[end:]
    if _begins(rest, tags):
        return Spoken(completion, None)
    return Spoken(completion[:end], rest)


def _begins(text: str, tags: Sequence[tuple[str, str]]) -> bool:
    """Whether a thought begins in the text: with a tag at its beginning, or at the beginning of a line."""
    return any(re.search(rf"(?:\A|\n)\s*{re.escape(opening)}", text) for opening, _ in tags if opening in text)


def opens_thought(prompt: str, tags: Sequence[tuple[str, str]] = TAGS) -> bool:
    r"""Whether a prompt ends in the middle of a thought, as some chat templates leave it.

    >>> opens_thought("<|assistant|>\n<think>\n"), opens_thought("<think>\n\n</think>\n\n"), opens_thought("Hello")
    (True, False, False)
    """
    stripped = prompt.rstrip()
    return any(stripped.endswith(opening) for opening, _ in tags)
