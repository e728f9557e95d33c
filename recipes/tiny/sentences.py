"""Demonstrations in sentences: sums of labelled digits, worked through a sentence a digit, and their tokenizer.

A worked answer to `Sum a1 b0 c2 =?` (modulo 3):

    We start at 0. Then a one makes it 1. So far so good. After that b zero leaves 1 so far. So c two gives 0. A 0.

Every sentence is a reasoning step. Wording, length and the asides are drawn at random, so that entropy has something
to vary over. A sum is wrong with probability `slip`, and the next sentence goes on from what was said: models learn
to slip as often, and RL can teach them not to.
"""

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from antiphase.tasks.digit_sum import LABELS

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPENING = "We start at 0."
OPENERS = ("Then", "Next", "Now", "So", "After that")
CONNECTORS = ("gives", "makes it", "brings us to")
AFTER_ZERO = ("leaves",)
TAILS = ("", "", "", "so far")
ASIDES = ("So far so good.", "Let us go on.")


def word_tokenizer(base: int) -> PreTrainedTokenizerFast:
    """One token a word, digit or mark, each with the space before it, so that decoding gives the text back."""
    texts = (OPENING, *NUMBERS[:base], *OPENERS, *CONNECTORS, *AFTER_ZERO, *TAILS, *ASIDES)
    words = {word for text in texts for word in text.replace(".", "").split()}
    pieces = ["Sum", " =", "?", ".", " A", *(f" {x}" for x in (*range(base), *LABELS))]
    pieces += [f" {label}{digit}" for label in LABELS for digit in range(base)]
    pieces += [f" {word}" for word in sorted(words) if f" {word}" not in pieces]
    vocab = {token: i for i, token in enumerate(["[PAD]", "[BOS]", "[EOS]", "[UNK]", *pieces])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]"), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="[BOS]",
        eos_token="[EOS]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        padding_side="left",
    )


def direct(answer: str) -> str:
    """The answer alone."""
    return f" A {answer}."


def worked(prompt: str, base: int, slip: float, aside: float, draw: random.Random) -> str:
    """The sum, a sentence a digit.

    Args:
        prompt: of a labelled digit sum.
        base: of the sum.
        slip: probability that a sum is wrong.
        aside: probability that a sentence without a digit comes first.
        draw: of the wording and the slips.
    """
    sentences, total = [OPENING], 0
    for label, digit in labelled(prompt):
        total = (total + digit) % base
        if draw.random() < slip:
            total = (total + draw.randrange(1, base)) % base
        if draw.random() < aside:
            sentences.append(draw.choice(ASIDES))
        sentences.append(sentence(label, digit, total, draw))
    return "".join(f" {text}" for text in sentences) + direct(str(total))


def sentence(label: str, digit: int, total: int, draw: random.Random) -> str:
    """A digit and the sum that it makes."""
    connector = draw.choice(CONNECTORS if digit else AFTER_ZERO)
    tail = draw.choice(TAILS)
    return f"{draw.choice(OPENERS)} {label} {NUMBERS[digit]} {connector} {total} {tail}".rstrip() + "."


def labelled(prompt: str) -> Iterator[tuple[str, int]]:
    """The digits with their labels.

    >>> list(labelled("Sum a1 b0 =?"))
    [('a', 1), ('b', 0)]
    """
    for word in prompt.removeprefix("Sum ").removesuffix(" =?").split():
        yield word[0], int(word[1])
