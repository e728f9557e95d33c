"""Fine-tune a model on answers, step by step, so that it can be stopped and continued at any step.

The loss is the mean cross-entropy of the answers' tokens; prompts are only read. AdamW with a constant learning rate
changes all weights. On a GPU, the forward pass runs in bfloat16 while the weights stay in float32: a step of 5e-5 is
smaller than what a bfloat16 weight can hold.
"""

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from corpora import Answer
from torch.nn.functional import cross_entropy

from antiphase.errors import InvalidInputError
from antiphase.models.loading import LoadedModel
from antiphase.types import TokenBatch


class Training:
    """The training of one cell. The same seed gives bitwise the same weights on the same machine.

    Args:
        loaded: the model, with float32 weights, and its tokenizer.
        answers: the training part of the corpus.
        options: the settings `train` of the study.
        seed: the seed of the order of the answers.

    Attributes:
        step: the number of steps done.
        losses: the loss of each step.
        num_tokens: the number of answers' tokens that were trained on.
    """

    def __init__(self, loaded: LoadedModel, answers: Sequence[Answer], options: Mapping[str, Any], seed: int) -> None:
        self.loaded, self.answers, self.rows, self.seed = loaded, answers, int(options["rows"]), seed
        self.model: Any = loaded.model
        rate = float(options["learning_rate"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.0)
        self.step, self.num_tokens = 0, 0
        self.losses: list[float] = []
        self._orders: dict[int, list[int]] = {}

    def advance(self) -> None:
        """Do one step."""
        batch = self._batch()
        torch.manual_seed(hash((self.seed, self.step)) % 2**31)  # for models with dropout
        self.model.train()
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=batch.input_ids.is_cuda):
            logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
        # The token at each place is predicted from the place before it.
        chosen = batch.completion_mask[:, 1:]
        loss = cross_entropy(logits[:, :-1][chosen].float(), batch.input_ids[:, 1:][chosen])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        self.losses.append(float(loss.detach()))
        self.num_tokens += int(chosen.sum())
        self.step += 1

    def save(self, path: Path, key: str) -> None:
        """Write everything that the next step depends on. A file of this name is replaced in one moment.

        Args:
            path: the file.
            key: what the training's settings and data are; `load` compares it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "num_tokens": self.num_tokens,
            "key": key,
        }
        number, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(number)
        try:
            torch.save(state, name)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def load(self, path: Path, key: str) -> None:
        """Continue from what `save` wrote.

        Raises:
            InvalidInputError: the file was written with other settings or data.
        """
        state = torch.load(path, map_location=self.loaded.device, weights_only=True)
        if state["key"] != key:
            raise InvalidInputError(f"{path} was written with other settings or data. Remove it to begin anew.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses, self.num_tokens = state["step"], state["losses"], state["num_tokens"]

    def _batch(self) -> TokenBatch:
        # No end token is trained on. Corpora whose answers are rarely cut would else teach the model to stop sooner.
        chosen = [self.answers[self._row(self.step * self.rows + place)] for place in range(self.rows)]
        return TokenBatch.from_ids(
            [answer.prompt_ids for answer in chosen],
            [answer.answer_ids for answer in chosen],
            device=self.loaded.device,
        )

    def _row(self, place: int) -> int:
        """Return the answer at a place of the training: all answers in random order, then all in another order."""
        epoch, within = divmod(place, len(self.answers))
        if epoch not in self._orders:
            order = list(range(len(self.answers)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch][within]
