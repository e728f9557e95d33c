"""Keeps the finished rollouts of a batch in a file, so that an interrupted run asks only for the missing ones.

The file has one line of JSON for each rollout. A line is appended as soon as the rollout is finished. If the process
is killed while it writes, the last line is not whole; it is ignored, and this rollout is generated again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.rollouts.engine import Completion
from antiphase.rollouts.sampling_spec import Finish, Sampling


@dataclass(frozen=True)
class KeptRollout:
    """A finished rollout, and how its token ids were found.

    Args:
        ids: the token ids of the completion, including its end token if there is one.
        finish: `stop` if the completion ended with an end token, `length` if it was cut at the length limit.
        retokenised: whether the server returned only a text, which was tokenised again here.
        other_text: whether the ids do not decode to the text that the server returned.
        other_length: whether the number of ids is not the number of tokens that the server counted.
    """

    ids: tuple[int, ...]
    finish: Finish
    retokenised: bool = False
    other_text: bool = False
    other_length: bool = False

    def completion(self) -> Completion:
        """Return the token ids and the finish as a `Completion`, the form in which engines return rollouts."""
        return Completion(self.ids, self.finish)


class KeptRollouts:
    """A file that holds the finished rollouts of one batch.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> dict[str, KeptRollout]:
        """Return a mapping from each key (see `rollout_key`) to the rollout that the file holds for it.

        The mapping is empty if there is no file.
        """
        if self.path is None or not self.path.is_file():
            return {}
        found = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values = json.loads(line)
                key = values.pop("key")
                found[str(key)] = KeptRollout(**{**values, "ids": tuple(map(int, values["ids"]))})
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # The process was killed while it wrote this line.
        return found

    def add(self, key: str, kept: KeptRollout) -> None:
        """Append a finished rollout to the file. `key` is its key from `rollout_key`.

        Raises:
            InvalidInputError: the file cannot be written.
        """
        if self.path is None:
            return
        line = json.dumps({"key": key, **dataclasses.asdict(kept)}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                end = file.seek(0, 2)
                if end:
                    file.seek(end - 1)
                    line = line if file.read(1) == b"\n" else "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise InvalidInputError(
                f"cannot write to {str(self.path)!r} ({error.strerror or error}). Free some space; a run is continued "
                "with --resume."
            ) from error


def rollout_key(model: str, prompt_ids: Sequence[int], sampling: Sampling, ends: Sequence[int], seed: int) -> str:
    """Return a hash of all that a rollout depends on: model, prompt, sampling options, end tokens and seed.

    Args:
        model: the name of the model on the server.
        prompt_ids: the token ids of the prompt.
        sampling: the sampling options.
        ends: the ids of the tokens that end a completion.
        seed: the seed of the rollout.
    """
    drawn = [sampling.max_new_tokens, sampling.temperature, sampling.top_p]
    text = json.dumps([model, list(map(int, prompt_ids)), drawn, list(ends), seed])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def kept_counts(paths: Iterable[Path]) -> dict[str, int]:
    """Return how many kept rollouts were tokenised again here, and how many of these disagree with the server.

    Args:
        paths: the files of some batches.

    Returns:
        A mapping with three numbers of rollouts. `num_retokenised` counts the rollouts that were tokenised again.
        `num_other_text` counts those whose token ids do not decode to the server's text. `num_other_length` counts
        those with another number of tokens than the server counted. The mapping is empty if no rollout is kept.
    """
    kept = [rollout for path in paths for rollout in KeptRollouts(path).read().values()]
    if not kept:
        return {}
    return {
        "num_retokenised": sum(rollout.retokenised for rollout in kept),
        "num_other_text": sum(rollout.other_text for rollout in kept),
        "num_other_length": sum(rollout.other_length for rollout in kept),
    }
