"""Register the trainers in verl, which loads this module in each of its processes (entry point group `verl.plugins`).

verl logs an error of a plugin only at the level DEBUG. So this module itself logs a warning that says what is missing.
"""

import logging
from importlib.metadata import version

_TESTED = "0.9."


def _check_version() -> None:
    """Raise an error if antiphase was not tested with the installed version of verl."""
    found = version("verl")
    if not found.startswith(_TESTED):
        raise ImportError(f"antiphase is tested with verl {_TESTED}x; verl {found} is installed.")


try:
    _check_version()
    from antiphase.verl import trainer as _trainer  # noqa: F401
except Exception as error:
    logging.getLogger("antiphase").warning(
        "antiphase could not add its trainers to verl (%s: %s). If a package is missing: pip install "
        "'verl[verl-core]>=0.9.1,<0.10'.",
        type(error).__name__,
        error,
    )
    raise
