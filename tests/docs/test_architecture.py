"""docs/architecture.md and CONTRIBUTING.md name what exists, in the order of the calls, and all that refuses."""

import ast
import re
import sys

import pytest

from antiphase.cli import main
from conftest import byte_tokenizer, tiny_model
from docs_pages import DOCS, ROOT, module

PACKAGE = ROOT / "src" / "antiphase"
PAGES = (DOCS / "architecture.md", ROOT / "CONTRIBUTING.md")
MAP = PAGES[0].read_text(encoding="utf-8")
PATH = r"`(?P<path>(?:[\w.-]+/)*[\w-]+\.(?:py|js|yaml|md))`"
# Names that follow a path, as in: `rollouts/sampling.py` `generate`, `trim`
NAMES = r"(?P<names>(?:(?: and | or |, | )`[\w.]+`)*)"
REFUSALS = {"UnsupportedModelError", "NonFiniteError", "ModelNotFoundError", "HostError"}


def place(path):
    """The file that a page means: of the package, or of the repository."""
    return next((root / path for root in (PACKAGE, ROOT) if (root / path).is_file()), None)


def section(title):
    return re.search(rf"^#+ {title}\n(.*?)(?=^#)", MAP, re.MULTILINE | re.DOTALL)[1]


def test_the_picture_is_that_of_the_rows() -> None:
    rooms = module("rooms")
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.picture(), "run: python docs/rooms.py"
    named = {name for row in rooms.layers() for name in row}
    tree = (ROOT / "README.md").read_text(encoding="utf-8").rpartition("src/antiphase/\n")[2].partition("```")[0]
    found = {word.removesuffix("/").removesuffix(".py") for word in re.findall(r"[\w.]+(?:/|\.py)", tree)}
    assert named <= found, named - found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_named_exists(page) -> None:
    text = page.read_text(encoding="utf-8")
    found = list(re.finditer(PATH + NAMES, text))
    assert len(found) > 50
    missing = []
    for match in found:
        path = place(match["path"])
        if path is None and "NAME" not in match["path"]:
            missing.append(match["path"])
        elif path is not None and path.suffix == ".py":
            source = path.read_text(encoding="utf-8")
            for name in re.findall(r"`([\w.]+)`", match["names"]):
                last = name.rpartition(".")[2]
                here = rf"(\bdef {last}\b|\bclass {last}\b|^ *{last}\b\s*[:=])"
                if place(name) is None and not re.search(here, source, re.MULTILINE):
                    missing.append((match["path"], name))
    for folder in re.findall(r"`((?:[\w.]+/)+)`", text):
        if not ((PACKAGE / folder).is_dir() or (ROOT / folder).is_dir() or folder.startswith("OUT/")):
            missing.append(folder)
    assert not missing


def test_a_probe_passes_the_functions_in_this_order(tmp_path) -> None:
    named = re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", section("In `antiphase probe`"), re.MULTILINE)
    assert len(named) > 30
    tiny_model().save_pretrained(tmp_path / "model")
    chat = "{% for message in messages %}{{ message.content }}{% endfor %}"
    byte_tokenizer(chat).save_pretrained(tmp_path / "model")
    words = ["probe", str(tmp_path / "model"), "--out", str(tmp_path / "run"), "--num-prompts", "2"]
    words += ["--max-new-tokens", "12", "--num-resamples", "10", "--quiet", "--no-figures", "--no-report"]
    called = []

    def note(frame, event, _) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            called.append((frame.f_code.co_filename.removeprefix(f"{PACKAGE}/"), frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        assert main(words) == 0
    finally:
        sys.setprofile(before)
    rest = iter(called)
    for function in named:
        assert function in rest, f"{function} is not called after the one before it"


def refusing():
    """(module, function) of everything that raises, or makes, an error that refuses a model or a checkpoint."""
    for path in PACKAGE.rglob("*.py"):
        parents = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for child in ast.iter_child_nodes(node):
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                parents[child] = node.name if inside else parents.get(node)
            made = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
            name = made.func.id if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) else None
            name_of_room = path.relative_to(PACKAGE).as_posix()
            checked = (
                name_of_room.startswith(("models/", "signals/", "rollouts/")) or name_of_room == "training/checks.py"
            )
            if name in REFUSALS or (name == "InvalidInputError" and checked):
                yield name_of_room, parents[node]


def test_all_that_refuses_is_listed() -> None:
    listed = section("Models") + section("Checkpoints and run folders") + section("Options, batches and data")
    rows = {}
    for match in re.finditer(PATH + NAMES, listed):
        rows.setdefault(match["path"], set()).update(re.findall(r"`([\w.]+)`", match["names"]))
    found = set(refusing())
    assert len(found) > 40
    missing = [
        (path, function)
        for path, function in sorted(found)
        # A class stands for what its `__init__` and `__post_init__` refuse.
        if function not in (owners := rows.get(path, set())) and not (function[:2] == "__" and owners & classes(path))
    ]
    assert not missing


def classes(path):
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
