"""The corpora of the study: questions with answers, split into training and held-out parts, cut and shuffled.

The hash of a question decides whether it is held out. So a question is held out of every corpus or of none.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from corpus_sources import Pair, prose, solutions, traces

from antiphase.data.prompt_rendering import PromptFormat
from antiphase.errors import InvalidInputError
from antiphase.steps import Splitter

# Where the answers of each corpus come from.
_SOURCES: dict[str, Callable[[], list[Pair]]] = {
    "reasoning": lambda: traces("thinking"),
    "base": lambda: traces("base"),
    "sentences-shuffled": lambda: traces("thinking"),
    "words-shuffled": lambda: traces("thinking"),
    "worked": solutions,
    "prose": prose,
}
CORPORA = tuple(_SOURCES)


@dataclass(frozen=True)
class Answer:
    """An answer after its prompt, as token ids.

    Args:
        question: the question, as text.
        prompt_ids: the token ids of the prompt, as the model sees it.
        answer_ids: the token ids of the answer, without an end token.
        whole: whether the answer was not cut, so that an end token belongs after it.
    """

    question: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    whole: bool


@cache
def pairs_of(corpus: str) -> tuple[Pair, ...]:
    """Return all questions and answers of a corpus, before they are cut or shuffled, in an order fixed by hashes.

    The corpora made from the same answers have them in the same order.

    Raises:
        InvalidInputError: the source of the corpus is missing or malformed.
    """
    pairs = dict.fromkeys(_SOURCES[corpus]())
    return tuple(sorted(pairs, key=lambda pair: (_hash(pair[0]), _hash(pair[1]))))


def is_held_out(question: str, share: float) -> bool:
    """Return whether a question is held out of all training.

    Args:
        question: the text of the question; white space does not matter.
        share: the share of all questions that is held out.
    """
    return _hash(" ".join(question.split())) < share * 2**64


def shuffled_sentences(text: str, seed: str) -> str:
    """Return a text with its sentences in random order, and the white space between them where it was.

    >>> shuffled_sentences("One. Two. Three.", "1")
    'One. Three. Two.'
    """
    starts = [0, *Splitter().starts(text), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(starts)]
    spaces = [part[len(part.rstrip()) :] for part in parts]
    texts = [part.rstrip() for part in parts]
    random.Random(seed).shuffle(texts)
    return "".join(text + space for text, space in zip(texts, spaces, strict=True))


def shuffled_words(text: str, seed: str) -> str:
    """Return a text with its words in random order, with a space between two words.

    >>> shuffled_words("One. Two three.", "1")
    'One. three. Two'
    """
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


_SHUFFLES = {"sentences-shuffled": shuffled_sentences, "words-shuffled": shuffled_words}


@dataclass(frozen=True)
class Corpus:
    """A corpus, cut to the tokens of a model.

    Args:
        name: the name of the corpus.
        tokenizer: the model's tokenizer.
        held_out: the share of questions that is held out.
        prompt_tokens: pairs whose prompt has more tokens are left out.
    """

    name: str
    tokenizer: Any
    held_out: float
    prompt_tokens: int

    def answers(self, *, held_out: bool, num_tokens: int, least: int) -> list[Answer]:
        """Return the answers of the training part, or of the held-out part.

        An answer is cut first and shuffled then, so a shuffled answer has the words of the answer that it was made of.

        Args:
            held_out: which part is returned.
            num_tokens: an answer is cut after so many tokens.
            least: pairs whose answer has fewer tokens are left out.
        """
        found = []
        for question, answer in pairs_of(self.name):
            if is_held_out(question, self.held_out) != held_out:
                continue
            ids = self._ids(answer)
            prompt = prompt_ids(self.tokenizer, question)
            if len(ids) < least or len(prompt) > self.prompt_tokens:
                continue
            whole = len(ids) < num_tokens
            ids = ids[:num_tokens]
            shuffle = _SHUFFLES.get(self.name)
            if shuffle is not None:
                text = str(self.tokenizer.decode(ids))
                # The seed comes from the text, so that every training sees one shuffled answer of it.
                ids = self._ids(shuffle(text, f"{_hash(question)}/{_hash(answer)}"))[:num_tokens]
            found.append(Answer(question, tuple(prompt), tuple(ids), whole))
        return found

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False).input_ids]


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """Return the token ids of a question, as the user's message or, without a chat template, with a line end.

    Args:
        tokenizer: the model's tokenizer.
        question: the question.
    """
    plain = tokenizer.chat_template is None
    wanted = PromptFormat("{prompt}\n" if plain else None, chat_template=not plain)
    return wanted.encode(tokenizer, question, "a question of the study")


def one_each(answers: Sequence[Answer], number: int, what: str) -> list[Answer]:
    """Return the first answers to so many different questions.

    Raises:
        InvalidInputError: there are too few questions.
    """
    by_question: dict[str, Answer] = {}
    for answer in answers:
        by_question.setdefault(answer.question, answer)
    if len(by_question) < number:
        raise InvalidInputError(
            f"{what}: {number} held-out questions with answers of enough tokens are needed; got {len(by_question)}. "
            "Lower num_texts, text_tokens or least_tokens, or raise held_out or prompt_tokens."
        )
    return list(by_question.values())[:number]


def _hash(text: str) -> int:
    """Return a number below 2⁶⁴ that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
