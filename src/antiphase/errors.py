"""The errors that antiphase raises on purpose.

Each says what is wrong, what was expected, what was found and how to mend it, in one line. Each also inherits the
standard type that a caller would have caught without knowing antiphase. The command line prints them without a
traceback and exits with status 2.
"""


class AntiphaseError(Exception):
    """Base of every error that antiphase raises on purpose."""


class InvalidInputError(AntiphaseError, ValueError):
    """An argument, a file or a folder is not what was asked for."""


class ModelNotFoundError(AntiphaseError, OSError):
    """A model could not be found or loaded."""


class UnsupportedModelError(AntiphaseError, TypeError):
    """The model has no attention projections that the chosen estimator can measure."""


class NonFiniteError(AntiphaseError, ArithmeticError):
    """Weights, logits or gradients contain NaN or infinity."""


class MissingExtraError(AntiphaseError, ImportError):
    """An optional dependency is needed and absent."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'. Install it: pip install 'antiphase[{extra}]'.")


class OutOfMemoryError(AntiphaseError, MemoryError):
    """The device or the host ran out of memory."""
