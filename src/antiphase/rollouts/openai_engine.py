"""The engine `openai`: asks a server with OpenAI's API, such as vLLM, SGLang or llama.cpp, for the completions.

Each rollout is one request with the rollout's own seed. No server promises the same tokens when it answers other
requests at the same time. The module `server_check` checks the server first; `server_protocol` says what is sent.
docs/servers.md is the guide.
"""

import asyncio
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError, ServerError
from antiphase.models.architecture import unwrap
from antiphase.models.loading import LoadedModel
from antiphase.rollouts.engine import Completion, Generator
from antiphase.rollouts.kept_rollouts import KeptRollout, KeptRollouts, rollout_key
from antiphase.rollouts.sampling import end_tokens
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_batch import Outcome, run_here, run_rows
from antiphase.rollouts.server_check import CheckedServer, check_prompt, check_server
from antiphase.rollouts.server_client import Client
from antiphase.rollouts.server_completion import prompt_text, rollout_of
from antiphase.rollouts.server_options import ServerOptions
from antiphase.rollouts.server_protocol import Answer, read_answer


class OpenaiGenerator(Generator):
    """Engine that asks a server for completions. The server is checked when this object is made.

    Args:
        options: the server, and how it is asked.
        loaded: the model that is measured. The server must have the same model and tokenizer.
        end_ids: ids of tokens that end a completion, in addition to the model's own end tokens.

    Raises:
        InvalidInputError: the server lacks the model, has another tokenizer, or cannot be asked.
        ServerError: the server cannot be reached, or does not answer.
    """

    name = "openai"

    def __init__(self, options: ServerOptions, loaded: LoadedModel, end_ids: Sequence[int] = ()) -> None:
        self._options, self._tokenizer = options, loaded.tokenizer
        self._ends = end_tokens(loaded, end_ids)
        model: Any = unwrap(loaded.model)
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._kept = KeptRollouts(None)
        self._server = run_here(self._checked())
        self.versions = {"httpx": importlib.metadata.version("httpx")}
        self.facts = {"server": self._server.facts(options.model)}

    async def _checked(self) -> CheckedServer:
        """Check the server within the deadline, and return what was found out about it."""
        work = check_server(self._options, self._tokenizer, self._ends, self._vocabulary)
        try:
            return await asyncio.wait_for(work, self._options.deadline)
        except asyncio.TimeoutError:
            raise ServerError(
                f"the server at {self._options.base_url} could not be checked within the deadline of "
                f"{self._options.deadline:g} seconds."
            ) from None

    def keep_in(self, path: Path | None) -> None:
        """Let the next batch keep its finished rollouts in this file; see `Generator.keep_in`."""
        self._kept = KeptRollouts(path)

    def complete(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        *,
        tick: Callable[[float], None] = lambda _: None,
    ) -> list[Completion]:
        """Ask for one completion of each prompt, and return the completions in the order of the prompts.

        Args:
            prompt_ids: the token ids of the prompts.
            sampling: the sampling options.
            seeds: the seed of each rollout. Its lower 31 bits are sent.
            tick: function for a progress bar. It is called after each finished rollout.

        Raises:
            InvalidInputError: a prompt is empty or cannot be sent, the server refuses a request, or an answer cannot
                be used.
            ServerError: requests failed although they were repeated, or the deadline passed. The finished rollouts are
                kept in the file that `keep_in` named.
        """
        if any(len(ids) == 0 for ids in prompt_ids):
            raise InvalidInputError("a prompt has no tokens; a completion needs one token before it.")
        prompts: list[Any] = list(prompt_ids)
        if self._server.dialect.as_text:
            prompts = [prompt_text(self._tokenizer, ids, row) for row, ids in enumerate(prompt_ids)]
        keys = [
            rollout_key(self._options.model, ids, sampling, self._ends, seed)
            for ids, seed in zip(prompt_ids, seeds, strict=True)
        ]
        before = self._kept.read()
        done: dict[int, KeptRollout] = {row: before[key] for row, key in enumerate(keys) if key in before}
        tick(len(done) / max(1, len(keys)))
        missing = [row for row in range(len(keys)) if row not in done]

        def finished(row: int, answer: Answer) -> None:
            check_prompt(answer, prompt_ids[row])
            done[row] = rollout_of(answer, self._tokenizer, self._ends, sampling, self._vocabulary)
            self._kept.add(keys[row], done[row])
            tick(1 / len(keys))

        if missing:
            bodies = {
                row: self._server.dialect.body(self._options.model, prompts[row], sampling, self._ends, seeds[row])
                for row in missing
            }
            outcome = run_here(self._ask(bodies, finished))
            if len(done) < len(keys):
                raise self._ended(outcome, len(done), len(keys))
        return [done[row].completion() for row in range(len(keys))]

    async def _ask(self, bodies: dict[int, dict[str, Any]], finished: Callable[[int, Answer], None]) -> Outcome:
        """Send a request for each row, and return how the batch ended.

        `finished` is called with the row and the answer of each request that succeeds.
        """
        stop, url = asyncio.Event(), f"{self._options.base_url}/completions"
        async with Client(self._options, stop) as client:

            async def work(row: int) -> None:
                finished(row, await client.ask(url, bodies[row], read_answer))

            return await run_rows(
                list(bodies),
                work,
                stop,
                concurrency=self._options.concurrency,
                deadline=self._options.deadline,
                grace=self._options.retries.grace,
            )

    def _ended(self, outcome: Outcome, done: int, wanted: int) -> Exception:
        """Return the error to raise for a batch of which not all rollouts are finished."""
        kept = "" if self._kept.path is None else " The finished ones are kept; repeat the command with --resume."
        state = f"{done} of {wanted} rollouts of the batch are finished."
        if outcome.late:
            return ServerError(
                f"the deadline of {self._options.deadline:g} seconds passed: {state}{kept} Raise --deadline, or lower "
                "--batch-size."
            )
        row, error = outcome.failures[0]
        message = f"rollout {row}: {str(error).rstrip('.')}. {state}{kept}"
        if isinstance(error, ServerError):
            return ServerError(message)
        return InvalidInputError(message)


def make(
    loaded: LoadedModel | None, *, end_ids: Sequence[int] = (), vllm: Any = None, server: ServerOptions | None = None
) -> Generator:
    """Return the engine `openai` for a loaded model and a server. `vllm` is ignored.

    Raises:
        InvalidInputError: `loaded` or `server` is None, or the server cannot be used.
        ServerError: the server cannot be reached, or does not answer.
    """
    if loaded is None or server is None:
        raise InvalidInputError(
            "the engine 'openai' needs a loaded model (the model to measure), and ServerOptions as the argument "
            "server."
        )
    return OpenaiGenerator(server, loaded, end_ids)
