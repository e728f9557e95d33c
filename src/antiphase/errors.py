"""The errors that antiphase raises on purpose.

Each message says in one line what is wrong, what was expected, what was found and what to do. Each class also inherits
the standard type that a caller would catch without knowing antiphase. The command line prints these errors without a
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
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'. Install it: pip install 'antiphase[{extra}]'.")


class OutOfMemoryError(AntiphaseError, MemoryError):
    """The device or the host ran out of memory."""


def first_line(error: BaseException) -> str:
    r"""The first line of an error's message; the name of its type if it has no message.

    >>> first_line(ValueError("no such file\nsee above")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
