"""`ReadingTrainer`: TRL's `GRPOTrainer` with a reader of completions, which keeps what rewards log apart.

TRL collects what reward functions log in lists for one batch. A batch that is sampled in several rounds needs the
logs of each round, and in the end those of the rollouts that are trained on.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from trl import GRPOTrainer

from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.training.completion_texts import CompletionReader
from antiphase.training.host import HostError


class ReadingTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's `GRPOTrainer` that makes the texts of completions for rewards, and takes what rewards log."""

    _reader: CompletionReader | None = None

    def read_completions(self, rollouts: RolloutIds, completions: Any) -> None:
        """Prepare what reward functions read of the rollouts of this process; a subclass may add to it."""
        self._reader = CompletionReader(
            completions, rollouts, self._tokenizer, self._end_ids, self.max_completion_length
        )

    @property
    def _end_ids(self) -> set[int | None]:
        """The tokens that end a completion."""
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    @contextlib.contextmanager
    def _logged_metrics(self) -> Iterator[list[CompletionReader]]:
        """Collect the readers of the rounds, and let the last one hold the mean of what was logged in all of them."""
        readers: list[CompletionReader] = []
        yield readers
        logged: dict[str, float] = {}
        counts = [len(reader.finishes) for reader in readers]
        for name in readers[0].logged:
            values = [reader.logged.get(name, math.nan) for reader in readers]
            logged[name] = sum(n * value for n, value in zip(counts, values, strict=True)) / sum(counts)
            self._pending_metrics[name] = [logged[name]]
        cast(CompletionReader, self._reader).logged = logged

    def _taken_extras(self, count: int) -> list[dict[str, Any]]:
        """Return, for each rollout, the columns that reward functions logged for the table of completions.

        Args:
            count: number of rollouts of this process.
        """
        if any(len(values) != count for values in self._pending_extra_logs.values()):
            raise HostError("reward functions logged columns of another length than the batch has.")
        extras = [{name: values[i] for name, values in self._pending_extra_logs.items()} for i in range(count)]
        self._pending_extra_logs.clear()
        return extras

    def _give_extras(self, extras: Sequence[Mapping[str, Any]]) -> None:
        """Give the logged columns of the final batch to TRL, which adds them to its table."""
        for name in dict.fromkeys(name for row in extras for name in row):
            self._pending_extra_logs[name] = [row.get(name) for row in extras]
