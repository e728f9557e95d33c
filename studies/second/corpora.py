"""The corpora of the study: questions with answers, split into training and held-out parts, cut and shuffled.

The hash of a question decides whether it is held out. So a question is held out of every corpus or of none.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Iterable, Sequence
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
    """

    question: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


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
    """Return a text with its sentences in random order. The text keeps its number of sentences.

    The white space after a sentence moves with it. Some orders join two sentences, for example a heading without a
    full stop and what then follows it. So orders are drawn until one keeps the number. After 50 draws, the last one is
    taken.

    >>> shuffled_sentences("One. Two. Three. ", "1")
    'One. Three. Two. '
    """
    splitter, draw = Splitter(), random.Random(seed)
    starts = [0, *splitter.starts(text), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(starts)]
    # The last sentence has white space behind it too, so that it does not touch another one.
    parts[-1] = parts[-1].rstrip() + (parts[0][len(parts[0].rstrip()) :] or " ")
    shuffled = text
    for _ in range(50):
        draw.shuffle(parts)
        shuffled = "".join(parts)
        if len(splitter.starts(shuffled)) == len(parts) - 1:
            break
    return shuffled


def shuffled_words(text: str, seed: str) -> str:
    r"""Return a text with its words in random order. All white space stays in its place, so lines stay lines.

    >>> shuffled_words("One. Two\nthree.", "1")
    'One. three.\nTwo'
    """
    parts = re.split(r"(\s+)", text)
    words = parts[::2]
    random.Random(seed).shuffle(words)
    parts[::2] = words
    return "".join(parts)


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

        An answer that is too long is cut after its last whole sentence. Then it is shuffled, so a shuffled answer has
        the sentences or words of the answer that it was made of.

        Args:
            held_out: which part is returned.
            num_tokens: the greatest number of tokens of an answer.
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
            text = self._whole_sentences(ids, num_tokens)
            shuffle = _SHUFFLES.get(self.name)
            if shuffle is not None:
                # The seed comes from the text, so that every training sees one shuffled answer of it.
                text = shuffle(text, f"{_hash(question)}/{_hash(answer)}")
            found.append(Answer(question, tuple(prompt), tuple(self._ids(text)[:num_tokens])))
        return found

    def _whole_sentences(self, ids: Sequence[int], num_tokens: int) -> str:
        """Return the text of at most `num_tokens` tokens; a longer one ends with its last whole sentence."""
        text = str(self.tokenizer.decode(ids[:num_tokens]))
        starts = Splitter().starts(text)
        return text[: starts[-1]] if len(ids) > num_tokens and starts else text

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


def digest_of(answers: Iterable[Answer]) -> str:
    """Return a digest of the token ids of some answers and of their prompts."""
    found = hashlib.blake2b(digest_size=16)
    for answer in answers:
        found.update(repr((answer.prompt_ids, answer.answer_ids)).encode())
    return found.hexdigest()


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
