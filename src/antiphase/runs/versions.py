"""Find the versions of packages and the commit of the sources, on which the numbers of a run depend."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("antiphase", "torch", "transformers", "numpy", "pandas", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.cache
def commit() -> str | None:
    """Return the commit of the git checkout that contains this package; None if the package is not in a checkout.

    The commit is read once in a process. So a run that reads it at its beginning does not record a later commit.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # In a repository without a commit, git prints the word HEAD and fails.
    return (answer.stdout.strip() or None) if answer.returncode == 0 else None
