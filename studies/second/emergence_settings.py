"""Read and check the settings of the study of emergence, and list its cells. Nothing here loads a model."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora import CORPORA

from antiphase.data.yaml_mapping import read_mapping
from antiphase.errors import InvalidInputError
from antiphase.signal_spec import ESTIMATORS, UNITS
from antiphase.steps import Splitter

# The cell of the model before any training, which all corpora share.
UNTRAINED = "untrained"
# The name of the model's own completions among the measured texts.
ROLLOUTS = "rollouts"
_KEYS = ("model", "device", "threads", "seeds", "held_out", "corpora", "train", "measure", "seconds")
_CORPUS = ("steps", "later_seeds", "least_tokens")
_TRAIN = ("learning_rate", "rows", "answer_tokens", "prompt_tokens")
_MEASURE = (
    "texts", "num_texts", "text_tokens", "num_rollouts", "rollout_tokens", "estimators", "units", "num_resamples",
    "full", "sums",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training with its checkpoints; or the untrained model, measured once.

    Args:
        corpus: what is trained on; `untrained` for none.
        seed: the seed of the order of rows and of the model's own completions.
        steps: the training steps after which the model is measured, ascending.
    """

    corpus: str
    seed: int
    steps: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the cell, such as `reasoning.s0`."""
        return f"{self.corpus}.s{self.seed}"

    def file(self, step: int) -> str:
        """Return the name of the file that holds what was measured after a step."""
        return f"{self.name}.{step}.json"


@dataclass(frozen=True)
class Settings:
    """The settings of the study, as emergence.yaml explains them.

    Args:
        model, device, threads, seeds, held_out: as in the file.
        corpora: for each corpus, its options.
        train, measure, seconds: as in the file.
    """

    model: str
    device: str
    threads: int
    seeds: tuple[int, ...]
    held_out: float
    corpora: Mapping[str, Mapping[str, Any]]
    train: Mapping[str, Any]
    measure: Mapping[str, Any]
    seconds: Mapping[str, float]

    def least_tokens(self, corpus: str, default: int) -> int:
        """Return the least number of tokens that an answer of a corpus needs."""
        return int(min(self.corpora.get(corpus, {}).get("least_tokens", default), default))

    def estimators_of(self, texts: str) -> list[str]:
        """Return the estimators that measure a set of texts, or the model's own completions (`rollouts`)."""
        return [name for name, sets in self.measure["estimators"].items() if sets == "all" or texts in sets]

    def is_full(self, cell: Cell, step: int) -> bool:
        """Return whether the gradient through the whole context is measured at this step of a cell."""
        wanted = [cell.steps[-1] if each == "last" else each for each in self.measure["full"]["steps"]]
        return cell.seed in self.measure["full"]["seeds"] and step in wanted

    def cells(self) -> list[Cell]:
        """Return all cells, in the order in which they run: every corpus of a seed before the next seed."""
        found = []
        for seed in self.seeds:
            found.append(Cell(UNTRAINED, seed, (0,)))
            found += [
                Cell(corpus, seed, tuple(step for step in self._steps(corpus, seed) if step))
                for corpus in self.corpora
            ]
        return found

    def _steps(self, corpus: str, seed: int) -> list[int]:
        """Return the steps at which a corpus is measured with a seed. Seeds after the first may have fewer."""
        options = self.corpora[corpus]
        found: list[int] = options["steps"] if seed == self.seeds[0] else options.get("later_seeds", options["steps"])
        return found

    def chosen(self, names: Sequence[str]) -> list[Cell]:
        """Return the cells that some names choose; all of them without names.

        Args:
            names: names of cells or of corpora, or patterns such as `*.s0`.

        Raises:
            InvalidInputError: a name chooses nothing.
        """
        cells = self.cells()
        for name in names:
            if not any(_chooses(name, cell) for cell in cells):
                raise InvalidInputError(
                    f"--only {name!r} chooses no cell. There are: {', '.join(cell.name for cell in cells)}."
                )
        return [cell for cell in cells if not names or any(_chooses(name, cell) for name in names)]

    def stored(self) -> dict[str, Any]:
        """Return the settings on which the numbers of a cell depend, as values that JSON can hold."""
        options = {name: dict(each) for name, each in (("train", self.train), ("measure", self.measure))}
        least = {name: each["least_tokens"] for name, each in self.corpora.items() if "least_tokens" in each}
        model = Path(self.model).name if Path(self.model).exists() else self.model
        return {"model": model, "held_out": self.held_out, "least_tokens": least, **options}


def _chooses(name: str, cell: Cell) -> bool:
    return fnmatch.fnmatchcase(cell.name, name) or name == cell.corpus


def read_settings(path: Path, model: str | None = None) -> Settings:
    """Read and check the settings.

    Args:
        path: the YAML file.
        model: a model that replaces that of the file; None keeps it.

    Raises:
        InvalidInputError: the file cannot be read, or a key or value is wrong.
    """
    content = read_mapping(path, "study")
    _check_keys(content, _KEYS, str(path))
    _check_keys(content["train"], _TRAIN, "train")
    _check_keys(content["measure"], _MEASURE, "measure")
    texts = [*content["measure"]["texts"], *content["measure"]["full"]["texts"]]
    for corpus in [*content["corpora"], *(text for text in texts if text != ROLLOUTS)]:
        if corpus not in CORPORA:
            raise InvalidInputError(f"unknown corpus {corpus!r}. There are: {', '.join(CORPORA)}.")
    for corpus, options in content["corpora"].items():
        unknown = sorted({*options} - {*_CORPUS})
        if unknown:
            raise InvalidInputError(f"{corpus}: unknown option {unknown[0]!r}. There are: {', '.join(_CORPUS)}.")
        steps = options.get("steps")
        if not isinstance(steps, list) or steps != sorted(set(steps)) or not steps or steps[-1] < 1:
            raise InvalidInputError(f"{corpus}: steps must be ascending numbers that end above 0; got {steps!r}.")
        later = options.get("later_seeds", steps)
        if not isinstance(later, list) or not any(later) or later != [step for step in steps if step in later]:
            raise InvalidInputError(f"{corpus}: later_seeds must be some of its steps, in order; got {later!r}.")
    for estimator, sets in content["measure"]["estimators"].items():
        ESTIMATORS.check(estimator)
        unknown = (
            [] if sets == "all" else [name for name in sets if name not in (*content["measure"]["texts"], ROLLOUTS)]
        )
        if unknown:
            raise InvalidInputError(
                f"estimators: {estimator} names {unknown[0]!r}, which is no set of measured texts."
            )
    for unit in content["measure"]["units"]:
        if unit not in UNITS:
            Splitter.parse(unit)
    if not 0 < content["held_out"] < 1:
        raise InvalidInputError(f"held_out must lie between 0 and 1; got {content['held_out']}.")
    seeds = tuple(content.pop("seeds"))
    return Settings(**{**content, "seeds": seeds, "model": model or content["model"]})


def _check_keys(content: Mapping[str, Any], wanted: Sequence[str], where: str) -> None:
    """Refuse a mapping that lacks a key, or has one too many."""
    if set(content) != set(wanted):
        wrong = sorted(set(content) ^ set(wanted))
        raise InvalidInputError(f"{where}: the keys must be {', '.join(wanted)}; look at {', '.join(wrong)}.")
