"""Check from configurations and tokenizers whether checkpoints can come from one training. No weights are loaded."""

from collections.abc import Sequence
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.models.loading import inspect_model
from antiphase.probing.checkpoints import Checkpoint


def check_family(checkpoints: Sequence[Checkpoint], *, trust_remote_code: bool = False) -> None:
    """Raise an error if checkpoints cannot come from one training, because their models are built differently.

    Raises:
        InvalidInputError: two checkpoints have different architectures, sizes or vocabularies. The message names the
            difference.
        AntiphaseError: `inspect_model` cannot read a checkpoint.
    """
    first: tuple[Checkpoint, str, Any] | None = None
    for checkpoint in checkpoints:
        model, tokenizer = inspect_model(
            checkpoint.name, trust_remote_code=trust_remote_code, revision=checkpoint.revision
        )
        shape, vocabulary = _shape(model), tokenizer.get_vocab()
        if first is None:
            first = (checkpoint, shape, vocabulary)
        elif shape != first[1]:
            raise InvalidInputError(
                f"{first[0].label!r} ({first[1]}) and {checkpoint.label!r} ({shape}) are not checkpoints of one model."
            )
        elif vocabulary != first[2]:
            raise InvalidInputError(
                f"{first[0].label!r} and {checkpoint.label!r} are not checkpoints of one model: their tokenizers have "
                f"different vocabularies (of {len(first[2])} and {len(vocabulary)} tokens)."
            )


def _shape(model: Any) -> str:
    config = model.config.get_text_config()
    return (
        f"{type(model).__name__}, {config.num_hidden_layers} layers of {config.hidden_size}, vocabulary "
        f"{config.vocab_size}"
    )
