"""One-digit sums in words, such as a small model can solve: what is left of its arithmetic while it is trained."""

import random
import re
from collections.abc import Sequence

from corpora import prompt_ids

from antiphase.models.loading import LoadedModel
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.transformers_engine import TransformersGenerator
from antiphase.tasks.extraction import extract_answer

_NAMES = ("Tom", "Anna", "Ben", "Mia", "Leo", "Sara")
_THINGS = ("apples", "books", "pencils", "coins", "stamps", "marbles")
_GETS = ("buys {} more", "gets {} more from a friend", "finds {} more")


def worded_sums(number: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return different questions with their answers.

    >>> worded_sums(1)
    [('Anna has 4 pencils. Then Anna buys 9 more. How many pencils does Anna have now?', '13')]
    """
    draw = random.Random(f"worded sums {seed}")
    found: dict[str, str] = {}
    while len(found) < number:
        name, things, gets = draw.choice(_NAMES), draw.choice(_THINGS), draw.choice(_GETS)
        first, second = draw.randint(2, 9), draw.randint(2, 9)
        text = f"{name} has {first} {things}. Then {name} {gets.format(second)}. "
        text += f"How many {things} does {name} have now?"
        found[text] = str(first + second)
    return list(found.items())


def accuracy(loaded: LoadedModel, problems: Sequence[tuple[str, str]], new_tokens: int) -> dict[str, float]:
    """Return how the model answers greedily: three shares of the problems.

    * `pass@1`: the last number of the completion is right. A completion that is cut while it reasons is often wrong.
    * `named`: the right number stands somewhere in the completion. So a completion that is never ended counts too.
    * `ended`: the completion ends by itself.

    Args:
        loaded: the model.
        problems: questions with their answers.
        new_tokens: the greatest number of tokens of a completion.
    """
    prompts = [prompt_ids(loaded.tokenizer, question) for question, _ in problems]
    sampling = Sampling(new_tokens, temperature=0.0)
    completions = TransformersGenerator(loaded).complete(prompts, sampling, [0] * len(prompts))
    texts = [str(loaded.tokenizer.decode(list(one.ids), skip_special_tokens=True)) for one in completions]
    answers = [answer for _, answer in problems]
    right = [extract_answer(text, "last-number", gold) == gold for text, gold in zip(texts, answers, strict=True)]
    named = [gold in re.findall(r"\d+", text) for text, gold in zip(texts, answers, strict=True)]
    ended = [one.finish == "stop" for one in completions]
    shares = {"pass@1": right, "named": named, "ended": ended}
    return {**{name: sum(each) / len(each) for name, each in shares.items()}, "num_problems": len(right)}
