"""The errors that antiphase raises on purpose.

Each message is one line. It says what is wrong, what was expected, what was found and what to do. Each class also
inherits from the built-in error type that fits it, such as ValueError, so callers can catch an error without
importing antiphase. The command line prints these errors without a traceback and exits with status 2.
"""


class AntiphaseError(Exception):
    """The base class of every error that antiphase raises on purpose."""


class InvalidInputError(AntiphaseError, ValueError):
    """An argument has a value that is not allowed, or a file or folder has wrong content."""


class ModelNotFoundError(AntiphaseError, OSError):
    """A model could not be found or loaded."""


class UnsupportedModelError(AntiphaseError, TypeError):
    """The chosen estimator cannot measure this model, for example because it finds no attention projections."""


class NonFiniteError(AntiphaseError, ArithmeticError):
    """Weights, logits or gradients contain NaN or infinity."""


class MissingExtraError(AntiphaseError, ImportError):
    """An optional package is needed but not installed. The message names the command that installs it.

    Args:
        package: the name of the package.
        extra: the extra of antiphase that installs the package, such as `train` in `antiphase[train]`.
        purpose: what the package is needed for, such as `training`; the message begins with this text.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'. Install it: pip install 'antiphase[{extra}]'.")


class ServerError(AntiphaseError, ConnectionError):
    """An inference server cannot be reached, does not answer in time, or fails even when a request is repeated."""


class OutOfMemoryError(AntiphaseError, MemoryError):
    """The memory of the device, or the main memory, is exhausted."""


class LostProcessError(AntiphaseError, ConnectionError):
    """Another process of the same run has failed, does not answer, or cannot be reached.

    Args:
        message: the error message, which says what happened to which process.
        told_on: the name of the machine on which the other process prints its own error; None if it prints none.
        unreachable: whether this process has never reached the other processes, and so cannot ask them anything.
    """

    def __init__(self, message: str, *, told_on: str | None = None, unreachable: bool = False) -> None:
        super().__init__(message)
        self.told_on, self.unreachable = told_on, unreachable


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message, or the name of its type if it has no message.

    >>> first_line(ValueError("no such file\nsee above")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
