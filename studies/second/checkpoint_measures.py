"""Measure a checkpoint: on held-out texts of several corpora, on the model's own completions, and on sums in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corpora import Answer, Corpus, one_each
from emergence_settings import ROLLOUTS, Cell, Settings
from rank_tables import correlations
from worded_sums import accuracy, worded_sums

from antiphase.models.loading import LoadedModel
from antiphase.progress import Progress
from antiphase.rollouts.sampling_spec import Sampling, rollout_seeds
from antiphase.rollouts.transformers_engine import TransformersGenerator
from antiphase.runs.items import Item
from antiphase.runs.measuring import measure_items
from antiphase.runs.unit_spec import UnitSpec
from antiphase.signal_spec import SignalSpec


@dataclass(frozen=True)
class Materials:
    """What every checkpoint of the study is measured on.

    Args:
        texts: for each set of texts, its prompts and held-out answers.
        questions: the prompts of the model's own completions.
        sums: sums in words with their answers.
    """

    texts: dict[str, list[Answer]]
    questions: list[tuple[int, ...]]
    sums: list[tuple[str, str]]


def materials_of(settings: Settings, tokenizer: Any) -> Materials:
    """Return what every checkpoint is measured on.

    Raises:
        InvalidInputError: a corpus cannot be read, or has too few held-out answers that are long enough.
    """
    options, texts = settings.measure, {}
    tokens = int(options["text_tokens"])
    for name in dict.fromkeys([*options["texts"], "reasoning"]):
        corpus = Corpus(name, tokenizer, settings.held_out, settings.train["prompt_tokens"])
        found = corpus.answers(held_out=True, num_tokens=tokens, least=settings.least_tokens(name, tokens))
        texts[name] = one_each(found, max(options["num_texts"], options["num_rollouts"]), name)
    questions = [answer.prompt_ids for answer in texts["reasoning"][: options["num_rollouts"]]]
    chosen = {name: texts[name][: options["num_texts"]] for name in options["texts"]}
    return Materials(chosen, questions, worded_sums(options["sums"]["problems"]))


def measure_checkpoint(
    loaded: LoadedModel, settings: Settings, sets: Mapping[str, Sequence[Item]], sums: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Measure a checkpoint by the estimators that are cheap, as values that JSON can hold.

    Args:
        loaded: the model as it is now.
        settings: the settings of the study.
        sets: the sets of texts, as `sets_of` returns them.
        sums: sums in words with their answers.
    """
    entries = []
    for name, items in sets.items():
        specs = [SignalSpec(estimator=estimator) for estimator in settings.estimators_of(name)]
        entries += _entries(loaded, settings, name, items, specs)
    return {"entries": entries, "sums": accuracy(loaded, sums, settings.measure["sums"]["new_tokens"])}


def measure_full(loaded: LoadedModel, settings: Settings, sets: Mapping[str, Sequence[Item]]) -> list[dict[str, Any]]:
    """Measure the joint strength of sentences by the gradient through the whole context, on a part of the texts.

    Args:
        loaded, settings, sets: as in `measure_checkpoint`.
    """
    options = settings.measure["full"]
    spec = SignalSpec(estimator="full", step_strength="joint", targets_per_rollout=0)
    return [
        entry
        for name in options["texts"]
        for entry in _entries(loaded, settings, name, sets[name][: options["num_texts"]], [spec])
    ]


def sets_of(
    loaded: LoadedModel, settings: Settings, materials: Materials, seed: int, *, texts: bool
) -> dict[str, list[Item]]:
    """Return the texts that are measured, with the model's own completions among them.

    Args:
        loaded: the model as it is now, which completes the questions.
        settings: the settings of the study.
        materials: what is measured.
        seed: the seed of the model's own completions.
        texts: whether held-out texts are measured too.
    """
    found = {
        name: [_item(number, one.prompt_ids, one.answer_ids, loaded) for number, one in enumerate(answers)]
        for name, answers in materials.texts.items()
        if texts
    }
    sampling = Sampling(settings.measure["rollout_tokens"], temperature=1.0, seed=seed)
    seeds = rollout_seeds(seed, materials.questions)
    completions = TransformersGenerator(loaded).complete(materials.questions, sampling, seeds)
    found[ROLLOUTS] = [
        _item(number, prompt, one.ids, loaded)
        for number, (prompt, one) in enumerate(zip(materials.questions, completions, strict=True))
    ]
    return found


def _item(number: int, prompt: Sequence[int], answer: Sequence[int], loaded: LoadedModel) -> Item:
    return Item(str(number), str(number), "", tuple(prompt), tuple(answer), str(loaded.tokenizer.decode(list(answer))))


def _entries(
    loaded: LoadedModel, settings: Settings, name: str, items: Sequence[Item], specs: Sequence[SignalSpec]
) -> list[dict[str, Any]]:
    """Return an entry for each estimator on one set of texts."""
    with Progress(1, shown=False) as bar:
        measured = measure_items(loaded, items, specs, UnitSpec(), bar)
    tokens, steps = measured.tokens, measured.steps.to_pandas()
    options = settings.measure
    return [
        {
            "texts": name,
            "estimator": spec.estimator,
            "step_strength": spec.step_strength,
            **correlations(
                tokens[tokens.estimator == spec.estimator],
                steps[steps.estimator == spec.estimator],
                options["units"],
                options["num_resamples"],
                joint=spec.step_strength == "joint",
            ),
        }
        for spec in specs
    ]


def is_measured_on_texts(cell: Cell, settings: Settings) -> bool:
    """Return whether a cell reads texts. The untrained model's do not depend on the seed, so one seed is enough."""
    return bool(cell.steps != (0,) or cell.seed == settings.seeds[0])
