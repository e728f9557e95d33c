"""The documentation site: built strictly, whole without a network, and true to the code."""

import base64
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

import antiphase
from conftest import byte_tokenizer, tiny_model
from docs_pages import DOCS, ROOT, Page, glossary, module
from evaluation_cases import scored
from training_cases import flags, settings

needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed; pip install 'antiphase[docs]'"
)
SOURCES = list((ROOT / "src" / "antiphase").rglob("*.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


@needs_mkdocs
def test_nothing_comes_from_another_host(site, pages) -> None:
    assert len(pages) > 25
    for name, page in pages.items():
        assert page.loads, name
        for address in page.loads:
            assert not re.match(r"(https?:)?//", address), (name, address)
            if name != "404.html":  # its addresses begin at the root of a server
                assert (site / name).parent.joinpath(address.partition("?")[0].partition("#")[0]).is_file(), name
        # Diagrams would be drawn by a script from another host.
        assert "mermaid" not in (site / name).read_text(encoding="utf-8")
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


@needs_mkdocs
def test_every_public_name_is_described(pages) -> None:
    ids = {name: page.ids for name, page in pages.items()}
    for name in antiphase.__all__:
        assert f"antiphase.{name}" in ids["api/index.html"], name
        home = f"antiphase.{antiphase._HOMES[name]}.{name}"
        (place,) = (link for link in pages["api/index.html"].links if link and link.endswith(f"#{home}"))
        assert home in ids[f"api/{place.partition('#')[0]}"], name


@needs_mkdocs
def test_links_of_the_repository_lead_somewhere_on_the_site(site, pages) -> None:
    assert "api/signals.html#antiphase.signals.measure.token_signals" in pages["index.html"].links
    assert "api/signals.html#antiphase.signals.measure.token_signals" in pages["method.html"].links
    assert "recipes/tiny/index.html" in pages["index.html"].links
    assert "benchmarks/results/training-cpu.json" in pages["training.html"].links
    assert "../../training.html#how-the-score-enters" in pages["studies/first/index.html"].links
    for name, page in pages.items():
        for link in page.links:
            if link and not re.match(r"[a-z]+:|#|/|\.$", link) and name != "404.html":
                path, _, anchor = link.partition("#")
                target = (site / name).parent / path
                assert target.is_file(), (name, link)
                if anchor and target.suffix == ".html":
                    assert anchor in pages[target.resolve().relative_to(site.resolve()).as_posix()].ids, (name, link)


@needs_mkdocs
def test_where_links_lead() -> None:
    hooks = module("hooks")
    for path in ("README.md", "docs/method.md", "docs/notebook.ipynb", "recipes/tiny/README.md", "CHANGELOG.md"):
        assert hooks.repository_path(hooks.site_uri(path)) == path
    measure = "src/antiphase/signals/measure.py"
    assert hooks.api_name(measure, "`token_signals`") == "antiphase.signals.measure.token_signals"
    assert hooks.api_name(measure, "`the measurement`") == "antiphase.signals.measure"
    assert hooks.api_name("src/antiphase/types.py", "`TokenSignals.entropy`") == "antiphase.types.TokenSignals"
    assert hooks.api_name("src/antiphase/tasks/__init__.py", "tasks") == "antiphase.tasks"


@needs_mkdocs
def test_pipes_in_the_code_of_tables() -> None:
    hooks = module("hooks")
    row = hooks._TABLE_ROW.sub(hooks._plain_pipes, "| `2\\|1` | a \\| b |\n`2\\|1`")
    assert row == "| `2|1` | a \\| b |\n`2\\|1`"


@needs_mkdocs
def test_a_notebook_becomes_a_page() -> None:
    picture = base64.b64encode(b"picture").decode()
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["\x1b[31mred\x1b[0m\n"]},
        {"output_type": "display_data", "data": {"image/png": picture, "text/plain": "<Figure>"}},
        {"output_type": "execute_result", "data": {"text/html": ["<b>", "x</b>"], "text/plain": "x"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": "f()", "outputs": outputs},
    ]
    text, images = module("hooks").notebook_markdown({"cells": cells})
    assert images == {"notebook_files/1-1.png": b"picture"}
    for part in ("# Title\n", "```python\nf()\n```", "\nred\n```", "](notebook_files/1-1.png)", "\n<b>x</b>\n"):
        assert part in text
    assert "<Figure>" not in text


@needs_mkdocs
def test_docstrings_as_the_site_reads_them() -> None:
    docstrings = module("docstrings")
    text = "Args:\n    low, high: of the\n        interval.\n    seed: of the draw."
    each = "    {}: of the\n        interval.\n"
    assert docstrings.split_names(text) == f"Args:\n{each.format('low')}{each.format('high')}    seed: of the draw."
    text = "Half.\n\n>>> half(2)\n1\n>>> half(4)\n2\n\nNo more."
    fenced = "Half.\n\n```pycon\n>>> half(2)\n1\n>>> half(4)\n2\n```\n\nNo more."
    assert docstrings.fence_examples(text) == fenced
    attribute = SimpleNamespace(value="cast(float, _option(0.1, 'λ, the weight'))")
    docstrings.Reading().on_attribute_instance(attr=attribute)
    assert attribute.value == "0.1"


def test_every_deviation_is_listed() -> None:
    listed = (DOCS / "deviations.md").read_text(encoding="utf-8")
    for path in SOURCES:
        if re.search(r"(Our reading|Deviation):", path.read_text(encoding="utf-8")):
            assert f"](../{path.relative_to(ROOT).as_posix()})" in listed, path


# The glossary: its keys are those of real runs, no more and no less.

# Keys of a result that only some have: quantised models, models of which layers are left out, given rollouts, servers.
OF_SOME_RESULTS = {"quantization", "left_out", "num_without_end"}
OF_SOME_RESULTS |= {"server", "num_retokenised", "num_other_text", "num_other_length"}


def general(key):
    """The key as the glossary writes it, with k for the number of samples."""
    key = re.sub(r"^(pass|maj)@\d+$", r"\1@k", key)
    return re.sub(r"^avg@\d+$", "avg@n", re.sub(r"^heldout/pass@(?!1(_|$))\d+$", "heldout/pass@n", key))


def keys(*tables):
    return {general(key) for table in tables for key in table}


def listed(*sections):
    return {key for section in sections for names in glossary()[section].values() for key in names}


@pytest.fixture(scope="module")
def probed(model_dir):
    options = {"num_prompts": 3, "max_new_tokens": 16, "num_resamples": 20, "progress": False}
    return antiphase.probe(str(model_dir), estimators=("own", "last"), **options).summary


def test_keys_of_a_probe(probed) -> None:
    found = keys(probed, *probed["results"], *probed["agreement"])
    assert found | OF_SOME_RESULTS == listed("Every summary", "Probe")


def test_keys_of_an_evaluation(model_dir, probed) -> None:
    drawn = {"tasks": ("digit_sum:num_digits=4",), "num_problems": 2, "samples": 3, "max_new_tokens": 12}
    found = antiphase.evaluate(str(model_dir), **drawn, num_resamples=20, progress=False, figures=False).summary
    (entry,) = found["results"]
    inside = entry["inside"]
    best = list(inside["best_of"].values())
    scores = [inside["auroc"], *best, *(pick for picks in best for pick in picks.values())]
    scores += [inside["rivals"], *inside["rivals"].values()]
    found = keys(found, entry, entry["metrics"], inside, *scores)
    assert found | OF_SOME_RESULTS == listed("Every summary", "Evaluation")
    assert keys(entry["signals"]) <= keys(*probed["results"])


def test_keys_of_a_comparison(model_dir, tmp_path) -> None:
    for name, right, seed in (("a-0", 1, 0), ("a-1", 0, 1), ("b-0", 1, 0), ("b-1", 1, 1)):
        scored(model_dir, [[right, 1, 0], [1, 0, right]], out=tmp_path / name, seed=seed)
    found = antiphase.compare([f"a={tmp_path}/a-*", f"b={tmp_path}/b-*"]).to_dict()
    (task,) = found["tasks"].values()
    tables = [found, task, *task["entrants"], *found["points"], *task["across"].values()]
    tables += [difference for row in task["entrants"] for difference in row["differences"].values()]
    assert keys(*tables) == listed("Comparison")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_keys_of_a_training(model_dir, tmp_path) -> None:
    pytest.importorskip("trl", reason="TRL is not installed; pip install 'antiphase[train]'")
    from antiphase.cli import main
    from antiphase.inversion.alarm import Sign
    from antiphase.training.probe_set import ProbeSet, probe_policy
    from antiphase.training.trainer_config import CorRPOConfig
    from antiphase.training.trajectory import Trajectory, read_trajectory
    from antiphase.training.watch import CollapseWarning, Watch
    from antiphase.types import SignalSpec

    out = tmp_path / "run"
    words = {
        "preset": "grpo+corr-po",
        "inversion_weight": 0.5,
        "inversion_targets_per_rollout": 8,
        "dynamic_sampling": 1,
    }
    assert main(["train", *flags(model_dir, out, **words)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    logged = [
        row
        for path in out.glob("checkpoint-*/trainer_state.json")
        for row in json.loads(path.read_text())["log_history"]
    ]
    config = CorRPOConfig(**settings(tmp_path / "alarm", inversion_alarm="warn"))
    watch = Watch(Trajectory(tmp_path), config)
    with pytest.warns(CollapseWarning):
        watch._raise(0, 4, [Sign("shorter", "completions became shorter")], is_main_process=True)
    probe_set = ProbeSet.from_rollouts(["ab", "cd"], ["efghijklmnop"] * 2, byte_tokenizer())
    probed = probe_policy(tiny_model("llama-gqa"), probe_set, SignalSpec(), num_resamples=20)
    rows = [*read_trajectory(out), *read_trajectory(tmp_path), probed]

    tables = glossary()["Training"]
    of_trl = tables.pop("TRL's own")
    ours = listed("Every summary") - {"results"} | {key for names in tables.values() for key in names}
    also = {key for row in logged for key in row if key in ours}
    assert keys(summary, *rows, also) == ours
    others = {re.sub(r"^rewards/\w+/", "rewards/NAME/", key) for row in logged for key in row} - keys(ours, also)
    assert {key for key in others if general(key) not in ours} <= of_trl


def test_metrics_of_trl_are_listed() -> None:
    trainer = pytest.importorskip(
        "trl.trainer.grpo_trainer", reason="TRL is not installed; pip install 'antiphase[train]'"
    )
    logged = set(re.findall(r'_metrics\[mode\]\["([^"]+)"\]', inspect.getsource(trainer)))
    assert len(logged) > 10
    assert logged <= glossary()["Training"]["TRL's own"]
