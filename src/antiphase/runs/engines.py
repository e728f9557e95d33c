"""Make and close the engines that complete the prompts of one model in a run, and let them complete a batch."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from antiphase.models.loading import LoadedModel
from antiphase.progress import Progress
from antiphase.rollouts.choosing import make_generator
from antiphase.rollouts.engine import Generator
from antiphase.rollouts.vllm_engine import VllmOptions
from antiphase.runs.items import Batch, completed
from antiphase.runs.measuring import short_name
from antiphase.runs.run_config import RunConfig
from antiphase.runs.server_choice import server_options


class Engines(contextlib.AbstractContextManager["Engines"]):
    """A context that makes the engines of one model, one for each set of end tokens, and closes them at its end.

    Args:
        config: the options of the run.
        loaded: the model that is measured. It also completes the prompts if the engine is `transformers`.
        name: the name of the model in the run; vLLM loads the model by this name.
    """

    def __init__(self, config: RunConfig, loaded: LoadedModel, name: str) -> None:
        self._config, self._loaded, self._name = config, loaded, name
        self._made: dict[tuple[int, ...], Generator] = {}

    def ending_at(self, end_ids: tuple[int, ...]) -> Generator:
        """Return the engine that ends completions at these tokens and at the model's own end tokens."""
        if end_ids not in self._made:
            self._close()  # vLLM takes most of a GPU's memory, so only one engine exists at a time.
            vllm = self._vllm() if self._config.engine == "vllm" else None
            options: dict[str, Any] = {"end_ids": end_ids, "vllm": vllm}
            if self._config.engine == "openai":
                options["server"] = server_options(self._config, self._name)
            self._made = {end_ids: make_generator(self._config.engine, self._loaded, **options)}
        return self._made[end_ids]

    def _vllm(self) -> VllmOptions:
        return VllmOptions(
            self._name,
            dtype=self._config.dtype,
            revision=self._config.revision,
            trust_remote_code=self._config.trust_remote_code,
            memory_share=self._config.vllm_memory,
        )

    def _close(self) -> None:
        while self._made:
            self._made.popitem()[1].close()

    def __exit__(self, *exception: Any) -> None:
        self._close()


def completed_batch(
    batch: Batch, loaded: LoadedModel, engines: Engines, bar: Progress, kept: Path | None = None
) -> Batch:
    """Generate the completions of a batch, and return the batch with them.

    Args:
        batch: the batch.
        loaded: the model that is measured.
        engines: the engines of this model.
        bar: the progress bar.
        kept: the file in which an engine may keep the finished rollouts of this batch, so that a continued run does
            not generate them again; None if there is no such file.
    """
    about = f" ({batch.label})" if batch.label else ""
    bar.stage(f"{short_name(loaded)}: generating{about}", len(batch.items))
    engine = engines.ending_at(batch.end_ids)
    engine.keep_in(kept)
    drawn = engine.complete([item.prompt_ids for item in batch.items], batch.sampling, batch.seeds, tick=bar.advance)
    bar.end_stage()
    pairs = zip(batch.items, drawn, strict=True)
    items = tuple(completed(item, one.ids, one.finish, loaded.tokenizer) for item, one in pairs)
    return dataclasses.replace(batch, items=items)
