"""`ReadingTrainer`: TRL's `GRPOTrainer` that makes the texts of completions, and collects what reward functions log.

Reward functions can log metrics, and columns of TRL's table of completions. TRL expects both once for each batch. But
if a batch is sampled in several rounds, the functions log in each round. A metric of the batch is then the mean over
the rollouts of all rounds. A column holds the values of the rollouts that are trained on.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from antiphase.inversion.rollout_facts import RolloutIds
from antiphase.training.batch_checks import check_lengths
from antiphase.training.completion_texts import CompletionReader
from antiphase.training.step_clock import TimedTrainer


class ReadingTrainer(TimedTrainer):
    """A subclass of TRL's `GRPOTrainer` that makes the texts which reward functions read.

    If reward functions are called in several rounds, this trainer also merges what they logged in these rounds.
    """

    _reader: CompletionReader | None = None

    def read_completions(self, rollouts: RolloutIds, completions: Any) -> None:
        """Prepare the texts of the completions that reward functions will read. A subclass may prepare more.

        Args:
            rollouts: the token ids of the rollouts of this process.
            completions: the completions as TRL gives them to reward functions.
        """
        self._reader = CompletionReader(
            completions, rollouts, self._tokenizer, self._end_ids, self.max_completion_length
        )

    @property
    def _end_ids(self) -> set[int | None]:
        """Return the ids of the tokens that end a completion."""
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    @contextlib.contextmanager
    def _logged_metrics(self) -> Iterator[list[CompletionReader]]:
        """Average the metrics that reward functions log, over all rounds in which a batch is sampled.

        The context yields an empty list, and the block appends the `CompletionReader` of each round to it. After the
        block, each metric becomes its mean over the rollouts of all rounds. TRL and the latest reader get the mean.
        """
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
        """Return the columns that reward functions logged for TRL's table of completions, and delete them in TRL.

        Args:
            count: number of rollouts of this process.

        Returns:
            for each rollout, a dictionary with the rollout's value in each column.

        Raises:
            InvalidInputError: a column does not have one value for each rollout.
        """
        check_lengths(self._pending_extra_logs, count)
        extras = [{name: values[i] for name, values in self._pending_extra_logs.items()} for i in range(count)]
        self._pending_extra_logs.clear()
        return extras

    def _give_extras(self, extras: Sequence[Mapping[str, Any]]) -> None:
        """Pass the values from `_taken_extras` to TRL, for the rollouts of the final batch.

        TRL adds the values to its table of completions.
        """
        for name in dict.fromkeys(name for row in extras for name in row):
            self._pending_extra_logs[name] = [row.get(name) for row in extras]
