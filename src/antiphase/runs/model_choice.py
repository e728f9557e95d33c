"""Check that a run's models, adapter and engine go together, before anything is loaded. This imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.models.gguf import is_gguf
from antiphase.models.saved import is_adapter, saved_digest


def check_model_choice(models: Sequence[str], adapter: str | None, engine: str) -> None:
    """Raise InvalidInputError if the models, the adapter and the engine do not go together.

    Args:
        models: the names of the models.
        adapter: a local directory or a hub id of an adapter, or None.
        engine: the name of the engine that generates the completions.
    """
    if adapter is not None and not adapter:
        raise InvalidInputError("adapter is an empty text: name a local directory or a hub id.")
    if adapter is not None and len(models) > 1:
        raise InvalidInputError(
            f"the adapter {adapter!r} goes with one model, but {len(models)} are named. Run each model separately. To "
            "compare adapters of one base model, name the directories of the adapters as the models."
        )
    if engine != "vllm":
        return
    if adapter is not None:
        raise InvalidInputError(
            "antiphase cannot pass an adapter to the engine 'vllm'. Use --engine transformers, or merge the adapter "
            "with its base model."
        )
    for name in models:
        what = "a GGUF file" if is_gguf(name) else "an adapter" if is_adapter(Path(name)) else None
        if what is not None:
            raise InvalidInputError(
                f"{name!r} is {what}, which antiphase does not load with the engine 'vllm'. Use --engine transformers."
            )


def weights_digests(models: Sequence[str], adapter: str | None) -> dict[str, str | None]:
    """Return a mapping from the name of each model, and of the adapter, to a checksum of its weights.

    A checksum is None if the weights are not in a local directory.
    """
    return {name: saved_digest(name) for name in (*models, *([] if adapter is None else [adapter]))}
