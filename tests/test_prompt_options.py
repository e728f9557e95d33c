"""Options of prompts in runs: what is refused, what a run keeps of its prompts, and what resume and compare check."""

import json

import pandas as pd
import pytest

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.models.loading import load_model
from antiphase.tasks.verdict import VERDICT_RULES
from antiphase.training.recipe import parse_recipe
from antiphase.training.train import train
from thinking_cases import QWEN3, save_thinking_model
from thinking_training import QUIET, TASK, saved_models, trained_batches
from training_cases import flags

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # as `antiphase train` does


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return saved_models(tmp_path_factory.mktemp("thinking"))


def test_a_switch_that_no_template_reads_is_refused(models, tmp_path, capsys):
    for command in (["probe", models["qwen3"]], ["eval", models["qwen3"], "--tasks", TASK]):
        out = tmp_path / command[0]
        words = [
            *map(str, command),
            "--max-new-tokens",
            "12",
            "--chat-template-kwargs",
            '{"thinking": true}',
            "--out",
            str(out),
            "--quiet",
        ]
        assert cli.main(words) == 2
        assert "no model's chat template reads thinking" in capsys.readouterr().err
        assert not out.exists()
    with pytest.raises(InvalidInputError, match="does not read thinking"):
        train(flags(models["qwen3"], tmp_path / "out", tasks=TASK, chat_template_kwargs='{"thinking": true}'))
    # Of several models, one that reads it is enough.
    found = antiphase.probe(
        [str(models["qwen3"]), str(models["r1"])], prompts=["a"], num_prompts="all", max_new_tokens=8,
        chat_template_kwargs={"enable_thinking": False}, **QUIET,
    )  # fmt: skip
    assert set(found.rollouts.model) == {str(models["qwen3"]), str(models["r1"])}


@pytest.mark.parametrize("text", ["{", "[1]", "1", '"x"'])
def test_a_switch_must_be_a_json_object(text, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["probe", "demo", "--chat-template-kwargs", text])
    assert ended.value.code == 2
    assert "chat-template-kwargs" in capsys.readouterr().err


def test_a_refused_system_role_is_one_line_and_can_be_folded(models, tmp_path, capsys, monkeypatch):
    question = tmp_path / "p.jsonl"
    question.write_text('{"prompt": "Why?"}\n')
    words = ["probe", str(models["strict"]), "--prompts", str(question), "--system-prompt", "Be brief."]
    words += ["--max-new-tokens", "12", "--quiet", "--no-figures", "--no-report"]
    assert cli.main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "no system role" in (shown := capsys.readouterr().err)
    assert shown.count("\n") == 1
    assert "--fold-system" in shown
    assert cli.main([*words, "--out", str(tmp_path / "a"), "--fold-system"]) == 0
    seen, _, _ = trained_batches(
        monkeypatch, models["strict"], tmp_path / "t", system_prompt="Be brief.", fold_system="true"
    )
    tokenizer = load_model(str(models["strict"])).tokenizer
    assert all(tokenizer.decode(p).startswith("<|im_start|>user\nBe brief.\n\n") for p, _ in seen)
    with pytest.raises(InvalidInputError, match="no system role"):
        train(flags(models["strict"], tmp_path / "u", tasks=TASK, system_prompt="Be brief."))


class Later:
    """A clock for `datetime`: it shows another day."""

    def __init__(self, monkeypatch):
        import datetime as module

        class Other(module.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2031, 2, 3, 12, 0, 0, tzinfo=tz)

        for place in ("antiphase.runs.run", "antiphase.training.training_folder"):
            monkeypatch.setattr(f"{place}.datetime", Other)
        monkeypatch.setattr("datetime.datetime", Other)


class Stop(Exception):
    pass


def test_a_run_that_is_continued_on_another_day_keeps_its_date(models, tmp_path, monkeypatch):
    options = {"prompts": ["a", "b", "c"], "num_prompts": "all", "max_new_tokens": 12, "batch_size": 1, **QUIET}
    import antiphase.probing.probe as module

    tables, done = module._ProbeRun.tables, []

    def cut(self, *arguments):
        done.append(1)
        if len(done) == 2:
            raise Stop
        return tables(self, *arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module._ProbeRun, "tables", cut)
        with pytest.raises(Stop):
            antiphase.probe(str(models["dated"]), out=out, **options)
    before = json.loads((out / "config.json").read_text())["prompts"]
    Later(monkeypatch)
    found = antiphase.probe(str(models["dated"]), out=out, resume=True, **options)
    tokenizer = load_model(str(models["dated"])).tokenizer
    days = {tokenizer.decode(ids).split("\n")[0] for ids in found.rollouts.prompt_ids}
    assert len(days) == 1
    assert "2031" not in days.pop()
    assert json.loads((out / "config.json").read_text())["prompts"] == before
    fresh = antiphase.probe(str(models["dated"]), **options)
    assert "03 Feb 2031" in tokenizer.decode(fresh.rollouts.prompt_ids[0])


def test_a_changed_template_is_refused_on_resume(models, tmp_path, monkeypatch):
    folder = save_thinking_model(tmp_path / "model")
    options = {"prompts": ["a"], "num_prompts": "all", "max_new_tokens": 12, **QUIET}
    out = tmp_path / "out"
    import antiphase.runs.model_work as module
    from antiphase.runs.run_folder import RunFolder

    def stop(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(module, "model_facts", stop)
        patch.setattr(RunFolder, "discard_if_unused", lambda self: None)
        with pytest.raises(Stop):
            antiphase.probe(str(folder), out=out, **options)
    loaded = load_model(str(folder)).tokenizer
    loaded.chat_template = QWEN3.replace("<|im_end|>\n", "<|im_end|>")
    loaded.save_pretrained(folder)
    with pytest.raises(InvalidInputError, match=r"other token ids for .* than when .*has changed since"):
        antiphase.probe(str(folder), out=out, resume=True, **options)


def test_evaluations_of_other_days_are_not_compared(models, tmp_path, monkeypatch, capsys):
    options = {"tasks": (TASK,), "num_problems": 4, "samples": 0, "max_new_tokens": 12, **QUIET}
    antiphase.evaluate(str(models["dated"]), out=tmp_path / "a", **options)
    antiphase.evaluate(str(models["qwen3"]), out=tmp_path / "c", **options)
    Later(monkeypatch)
    antiphase.evaluate(str(models["dated"]), out=tmp_path / "b", **options)
    words = ["compare", f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", "--out", str(tmp_path / "compared")]
    assert cli.main(words) == 2
    assert "the same tokenizer made other token ids" in capsys.readouterr().err
    # Another model's prompts differ by nature.
    words[2] = f"c={tmp_path / 'c'}"
    assert cli.main(words) == 0


def test_a_training_keeps_its_date_too(models, tmp_path, monkeypatch):
    seen, _, _ = trained_batches(monkeypatch, models["dated"], tmp_path / "out", save_steps=1)
    kept = json.loads((tmp_path / "out" / "recipe.json").read_text())["chat_template_moment"]
    tokenizer = load_model(str(models["dated"])).tokenizer
    assert all(pd.Timestamp(kept).strftime("%d %b %Y") in tokenizer.decode(prompt) for prompt, _ in seen)
    (tmp_path / "out" / "summary.json").unlink()
    for path in ("checkpoint-2", "model.safetensors"):
        (tmp_path / "out" / path).rename(tmp_path / path)
    Later(monkeypatch)
    again, _, _ = trained_batches(monkeypatch, models["dated"], tmp_path / "out", "--resume", save_steps=1)
    assert again
    assert not any("2031" in tokenizer.decode(prompt) for prompt, _ in again)


def test_recipes_hold_the_options(models, tmp_path):
    recipe = parse_recipe(flags(models["qwen3"], tmp_path, chat_template_kwargs='{"enable_thinking": false}'))
    assert recipe.config.chat_template_kwargs == {"enable_thinking": False}
    assert recipe.resolved["chat_template_kwargs"] == {"enable_thinking": False}


def test_switches_without_a_template_are_refused(models, tmp_path, capsys):
    switch = ["--no-chat-template", "--chat-template-kwargs", '{"enable_thinking": true}', "--quiet"]
    for command in (["probe", models["qwen3"]], ["eval", models["qwen3"], "--tasks", TASK]):
        assert cli.main([*map(str, command), *switch, "--out", str(tmp_path / command[0])]) == 2
        assert "would have no effect, because the chat template is not used" in capsys.readouterr().err
    words = flags(models["qwen3"], tmp_path / "t", tasks=TASK, chat_template_kwargs='{"enable_thinking": true}')
    with pytest.raises(InvalidInputError, match="would have no effect"):
        train([*words, "--chat_template", "false"])


def test_resume_names_only_what_differs(models, tmp_path):
    options = {"tasks": (TASK,), "num_problems": 4, "samples": 0, "max_new_tokens": 12, **QUIET}
    antiphase.evaluate(str(models["qwen3"]), out=tmp_path / "a", **options)
    (tmp_path / "a" / "summary.json").unlink()
    with pytest.raises(InvalidInputError) as refused:
        antiphase.evaluate(str(models["qwen3"]), out=tmp_path / "a", resume=True, **{**options, "max_new_tokens": 13})
    assert "max_new_tokens was 12, is 13" in str(refused.value)
    assert "identities.max_new_tokens was 12, is 13" in str(refused.value)
    assert len(str(refused.value)) < 300


def test_evaluations_by_other_rules_are_not_mixed(models, tmp_path):
    options = {"tasks": (TASK,), "num_problems": 4, "samples": 0, "max_new_tokens": 12, **QUIET}
    for name in ("a", "b"):
        antiphase.evaluate(str(models["qwen3"]), out=tmp_path / name, **options)
    path = tmp_path / "b" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["versions"]["verdicts"]
    path.write_text(json.dumps(summary))
    with pytest.raises(InvalidInputError, match=f"verifier: verdicts {VERDICT_RULES} and None"):
        antiphase.compare([f"a={tmp_path}/a", f"b={tmp_path}/b"])
    path.unlink()
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    del config["config"]["verdict_rules"]
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match=f"verdict_rules was None, is '{VERDICT_RULES}'"):
        antiphase.evaluate(str(models["qwen3"]), out=tmp_path / "b", resume=True, **options)
