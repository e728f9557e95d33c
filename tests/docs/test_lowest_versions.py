"""The versions of `make test-lowest` are the lowest ones that pyproject.toml allows."""

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from docs_pages import DOCS

ROOT = DOCS.parent
# The extras that a user installs for antiphase itself. The others hold other programs and tools of developers.
# compressed-tensors needs a newer PyTorch than antiphase does, so it is not among the lowest versions.
APART = "compressed-tensors"
EXTRAS = ("report", "demo", "quantized", "data", "train", "eval")


def stated() -> dict[str, Version]:
    """The lowest version of each dependency of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    head, tail = text.split("[project.optional-dependencies]")
    blocks = [re.search(r"^dependencies = \[(.*?)^\]", head, re.M | re.S)[1]]
    blocks += [re.search(rf"^{extra} = \[(.*?)\]$", tail, re.M | re.S)[1] for extra in EXTRAS]
    found: dict[str, Version] = {}
    for line in re.findall(r'"([^"]+)"', "".join(blocks)):
        requirement = Requirement(line)
        if requirement.name in ("antiphase", APART):
            continue
        (low,) = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")]
        name = canonicalize_name(requirement.name)
        assert found.setdefault(name, low) == low, f"two lowest versions of {name}"
    return found


def test_lowest_versions_are_those_of_pyproject() -> None:
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    head, _ = text.split("# Others")
    pinned = {canonicalize_name(n): Version(v) for n, v in re.findall(r"^([\w.-]+)==(\S+)$", head, re.M)}
    assert pinned == stated()


def test_tested_versions_are_not_below_the_lowest() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(n): Version(v) for n, v in re.findall(r"^([\w.-]+)==(\S+)$", text, re.M)}
    assert stated().keys() <= pinned.keys()
    assert all(pinned[name] >= low for name, low in stated().items())
