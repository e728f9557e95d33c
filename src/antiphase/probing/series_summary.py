"""`CheckpointSeries`: the result of a probe of checkpoints, as numbers, a table, a figure and a page."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from antiphase.data.published import published_curves
from antiphase.errors import InvalidInputError
from antiphase.figures.checkpoints import checkpoint_curves
from antiphase.models.fact_notes import model_notes
from antiphase.page.building import facts_of
from antiphase.page.document import Document, Run, Table, Training, joined
from antiphase.probing.fingerprint import Fingerprint
from antiphase.probing.series_folder import TRAJECTORY, SeriesFolder
from antiphase.runs.table_text import aligned, signed, with_interval, wrapped
from antiphase.runs.units import by_unit, headline_of
from antiphase.signal_spec import UNITS, Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The keys of each result that trajectory.json contains. The checkpoint's own summary.json contains all keys.
_KEPT = (
    "estimator", "headline", "units", "logprob_control", "num_tokens", "num_unique_tokens", "num_rollouts",
    "num_prompts", "entropy_mean", "strength_mean", "splitter", "step_strength",
)  # fmt: skip
# The page contains the tokens of every checkpoint if all tables of tokens together have at most this many rows.
_MOST_ON_A_PAGE = 400_000
# The number of characters at which the console's notes are wrapped.
_WIDTH = 132


def summarize_series(folder: SeriesFolder) -> dict[str, Any]:
    """Collect the results of the finished checkpoints in a folder, in the order of their steps.

    Returns:
        A mapping with three keys. `numbered` says whether the steps are training steps; if not, they are indices in a
        list. `rollouts` says which rollouts were measured: `own` (each checkpoint's own), `given`, or `of LABEL`
        (those of one checkpoint). `checkpoints` holds the results of each checkpoint.

    Raises:
        InvalidInputError: the run of a checkpoint cannot be read.
    """
    members, config = folder.members(), folder.read_json("config.json")["config"]
    finished = [member for member in members["checkpoints"] if folder.run_of(member).complete]
    owner = next((m["label"] for m in members["checkpoints"] if m["folder"] == members["rollouts_of"]), None)
    return {
        "numbered": bool(config["numbered"]),
        "rollouts": "given" if config["rollouts"] is not None else "own" if owner is None else f"of {owner}",
        "checkpoints": [
            {
                "step": member["step"],
                "checkpoint": member["label"],
                "model": member["name"],
                "revision": member["revision"],
                "folder": f"checkpoints/{member['folder']}",
                "results": [
                    {
                        **{key: result[key] for key in _KEPT},
                        "units": by_unit(result),
                        **_segments(result),
                        **{key: result[key] for key in ("quantization", "left_out") if key in result},
                    }
                    for result in folder.run_of(member).read_summary()["results"]
                ],
            }
            for member in finished
        ],
    }


def _segments(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping: `segment` is the part of a rollout that ρ is about, `segments` holds the ρ of each part.

    `segment` is `thought`, `answer` or `all`. For results of older versions, it is `all`, and `segments` is empty.
    """
    return {"segment": result.get("segment", "all"), "segments": result.get("segments", {})}


@dataclass(frozen=True)
class CheckpointSeries:
    """The result of `probe_checkpoints`: the correlation of entropy and strength for each checkpoint of a training.

    Args:
        summary: the content of trajectory.json.
        folder: the folder with the runs of the checkpoints; None if the runs were not kept.
    """

    summary: dict[str, Any]
    folder: Path | None = None

    @classmethod
    def load(cls, path: str | Path) -> "CheckpointSeries":
        """Read the result of a finished probe of checkpoints from its folder.

        Raises:
            InvalidInputError: the folder is not the folder of a probe of checkpoints, or the run is unfinished
                (continue it with `--resume`).
        """
        folder = SeriesFolder.open(Path(path))
        if not (folder.path / TRAJECTORY).is_file():
            raise InvalidInputError(
                f"{str(path)!r} holds an unfinished probe of checkpoints. To continue it, repeat its command with "
                "--resume."
            )
        return cls(folder.read_json(TRAJECTORY), folder.path)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each checkpoint, estimator and unit (columns: see docs/files.md).

        The file trajectory.csv has the same rows.
        """
        rows = []
        for point in self.summary["checkpoints"]:
            for result in point["results"]:
                for unit in UNITS:
                    entry = result["units"][unit]
                    held = entry["given"]["both"] if unit == "step" else {}
                    rows.append(
                        {
                            "step": point["step"],
                            "checkpoint": point["checkpoint"],
                            "estimator": result["estimator"],
                            "unit": unit,
                            **{key: entry[key] for key in ("value", "low", "high")},
                            **{f"within_{key}": entry["within"][key] for key in ("value", "low", "high")},
                            **{f"given_{key}": held.get(key) for key in ("value", "low", "high")},
                            "num_items": entry["num_items"],
                            "num_undefined": entry["num_undefined"],
                            "num_rollouts": result["num_rollouts"],
                            "num_prompts": result["num_prompts"],
                        }
                    )
        frame = pd.DataFrame(rows)
        numbers = [name for name in map(str, frame) if name.endswith(("value", "low", "high"))]
        return frame.astype(dict.fromkeys(numbers, "float64"))

    def plot(self, *, references: bool = True) -> "Figure":
        """Draw the correlation ρ and its interval against the training step, with a panel for each unit.

        Args:
            references: whether the published curves are drawn too.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return checkpoint_curves(self.summary, published_curves() if references else ())

    def document(self, name: str = "checkpoints", label: str | None = None, *, finished: bool = True) -> Document:
        """Return the content of the interactive page: ρ by training step, a table of the numbers, and the tokens.

        If the checkpoints have too many tokens for one page, the page shows only those of the first checkpoint
        and of the last one.

        Args:
            name: the name of the run; the page shows it if there is no `label`.
            label: the user's name for the run; None if the user gave none.
            finished: whether all checkpoints were measured.
        """
        shown = label or name
        run = Run(shown, "probe of checkpoints", finished, facts_of(self.summary))
        estimators = [result["estimator"] for result in self.summary["checkpoints"][0]["results"]]
        trainings = [
            Training(f"{shown} by {estimator}", f"{shown} by {estimator}", 0, self._rows(place))
            for place, estimator in enumerate(estimators)
        ]
        table = Table("ρ by checkpoint", self._header(), self._cells(), self._notes())
        series = Document(
            shown, [run], trainings=trainings, tables=[table], created=str(self.summary.get("created", ""))
        )
        return joined([series, *self._runs(label)], shown)

    def _runs(self, label: str | None) -> list[Document]:
        """Return a list with the page content that shows the rollouts of each checkpoint.

        The list is empty if the runs were not kept.
        """
        if self.folder is None:
            return []
        points = self.summary["checkpoints"]
        total = sum(result["num_tokens"] for point in points for result in point["results"])
        documents = []
        for place, point in enumerate(points):
            found = Fingerprint.load(self.folder / point["folder"])
            if total > _MOST_ON_A_PAGE and place not in (0, len(points) - 1):
                found = dataclasses.replace(found, tokens=found.tokens.iloc[:0], alternatives=None, steps=None)
            called = point["checkpoint"] if label is None else f"{label} · {point['checkpoint']}"
            document = found.document(called)
            documents.append(
                dataclasses.replace(
                    document,
                    tables=[],
                    runs=[dataclasses.replace(run, name=called) for run in document.runs],
                    subjects=[dataclasses.replace(subject, label=called) for subject in document.subjects],
                )
            )
        return documents

    def _rows(self, place: int) -> list[dict[str, Any]]:
        """Return the numbers of one estimator along the training, with a row for each checkpoint.

        The rows have the form of a training's trajectory.jsonl.

        Args:
            place: the index of the estimator in each checkpoint's list of results.
        """
        rows = []
        for point in self.summary["checkpoints"]:
            result = point["results"][place]
            row: dict[str, Any] = {"kind": "probe", "step": point["step"]}
            for unit in UNITS:
                entry = result["units"][unit]
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                    row[f"probe/spearman_{unit}{end}"] = entry[key]
                row[f"probe/undefined_{unit}"] = (entry["num_undefined"] or 0) / max(1, result["num_rollouts"])
            row |= {
                "probe/entropy": result["entropy_mean"],
                "probe/strength": result["strength_mean"],
                "probe/num_tokens": result["num_tokens"],
            }
            rows.append(row)
        return rows

    def _order(self) -> list[Unit]:
        """Return the units (`type`, `token`, `step`). The first is the headline unit, which tables show first."""
        first = headline_of(self.summary["checkpoints"][0]["results"][0])
        return [first, *(unit for unit in ("type", "token", "step") if unit != first)]

    def _header(self) -> list[str]:
        return ["step", "checkpoint", "estimator", *(f"ρ by {unit}" for unit in self._order()), "given", "tokens"]

    def _cells(self) -> list[list[str]]:
        return [
            [
                f"{point['step']:,}",
                point["checkpoint"],
                result["estimator"],
                *(with_interval(result["units"][unit]) for unit in self._order()),
                signed(result["units"]["step"]["given"]["both"]["value"]),
                f"{result['num_tokens']:,}",
            ]
            for point in self.summary["checkpoints"]
            for result in point["results"]
        ]

    def _notes(self) -> list[str]:
        first = self.summary["checkpoints"][0]["results"][0]
        chosen = first.get("segment", "all")
        rollouts = self.summary["rollouts"]
        wrote = {"own": "every checkpoint's own", "given": "the same given ones"}
        notes = [
            "ρ: Spearman correlation of token entropy and gradient strength; negative = inverted. In brackets 95 % "
            "intervals over prompts.",
            "by type: means over each distinct token id (the paper's fingerprint); by token: positions; by step: the "
            f"parts of a rollout ({first['splitter']}; strength: {first['step_strength']}); given: ρ by step with the "
            "lengths and places of the steps held fixed.",
            *([] if chosen == "all" else [f"segment: only the tokens of the {chosen} are correlated."]),
            f"rollouts: {wrote.get(rollouts, f'those {rollouts}')}; prompts: the same {first['num_prompts']}.",
        ]
        undefined = [
            f"{point['checkpoint']} {' / '.join(map(str, counts))}"
            for point in self.summary["checkpoints"]
            if any(counts := [point["results"][0]["units"][unit]["num_undefined"] for unit in self._order()])
        ]
        if undefined:
            notes.append(
                f"rollouts, of {first['num_rollouts']}, too short or constant for a ρ of their own by "
                f"{' / '.join(self._order())}: {', '.join(undefined)}."
            )
        return [*notes, *model_notes(first), *self.summary.get("notes", [])]

    def __str__(self) -> str:
        return "\n".join(["", *aligned(self._header(), self._cells()), "", *wrapped(self._notes(), _WIDTH)])

    def __repr__(self) -> str:
        points = self.summary["checkpoints"]
        return f"<CheckpointSeries of {len(points)} checkpoints, steps {points[0]['step']} to {points[-1]['step']}>"
