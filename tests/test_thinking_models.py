"""Tiny models that think as Qwen3 and DeepSeek-R1 do, through probe, eval and train: the same prompts and ends."""

import json
import re

import pandas as pd
import pytest

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.models.loading import load_model
from antiphase.rollouts.sampling import end_tokens
from antiphase.training.recipe import parse_recipe
from antiphase.training.train import train
from antiphase.training.trainer import CorRPOTrainer
from thinking_cases import DATED, QWEN3, R1, STRICT, save_thinking_model
from training_cases import flags

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # as `antiphase train` does
TASK = "chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1"
QUIET = {"progress": False, "figures": False, "report": False}
THINKING = {"on": None, "off": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinking")
    cases = {"qwen3": QWEN3, "r1": R1, "dated": DATED, "strict": STRICT}
    return {name: save_thinking_model(folder / name, template) for name, template in cases.items()}


def trained_batches(monkeypatch, model, out, *words, **changes):
    """Train for two steps. Returns every prompt and completion that the host sampled, and its end tokens."""
    seen, ends = [], set()
    generate = CorRPOTrainer._generate

    def watched(self, prompts):
        output = generate(self, prompts)
        seen.extend(zip(map(tuple, output[0]), map(tuple, output[1]), strict=True))
        ends.update(self.eos_token_ids)
        return output

    options = {"tasks": TASK, "max_steps": 2, "inversion_unit": "token", "data_seed": 0, **changes}
    with monkeypatch.context() as patch:
        patch.setattr(CorRPOTrainer, "_generate", watched)
        result = train([*flags(model, out, **options), *words])
    return seen, ends, result


@pytest.mark.parametrize(("name", "thinking"), [("qwen3", "on"), ("qwen3", "off"), ("r1", "on")])
def test_all_commands_give_a_model_the_prompt_of_the_hosts_batch(models, monkeypatch, tmp_path, name, thinking):
    model, options = models[name], THINKING[thinking]
    switch = {} if options is None else {"chat_template_kwargs": json.dumps(options)}
    evaluated = antiphase.evaluate(
        str(model), tasks=(TASK,), split="train", num_problems=40, samples=0, max_new_tokens=12,
        chat_template_kwargs=options, **QUIET,
    ).rollouts  # fmt: skip
    by_eval = {row.prompt: tuple(row.prompt_ids) for row in evaluated.itertuples()}
    questions = list(by_eval)
    probed = antiphase.probe(
        str(model), prompts=questions, num_prompts="all", max_new_tokens=12, chat_template_kwargs=options,
        **QUIET,
    ).rollouts  # fmt: skip
    assert {row.prompt: tuple(row.prompt_ids) for row in probed.itertuples()} == by_eval

    drawn = {}
    held = antiphase.training.train.held_out

    def watched(*arguments):
        drawn["held"] = held(*arguments)
        return drawn["held"]

    monkeypatch.setattr(antiphase.training.train, "held_out", watched)
    seen, ends, result = trained_batches(monkeypatch, model, tmp_path / "out", num_problems=40, **switch)
    assert result.summary is not None
    assert {prompt for prompt, _ in seen} <= set(by_eval.values())

    tokenizer = load_model(str(model)).tokenizer
    tail = {"on": "<|im_start|>assistant\n", "off": "<|im_start|>assistant\n<think>\n\n</think>\n\n"}[thinking]
    tail = "<|Assistant|><think>\n" if name == "r1" else tail
    everything = [*by_eval.values(), *(prompt for prompt, _ in seen), *drawn["held"].prompt_ids]
    assert all(tokenizer.decode(ids).endswith(tail) for ids in everything)
    held_prompts = dict(zip((p.prompt for p in drawn["held"].problems), drawn["held"].prompt_ids, strict=True))
    again = antiphase.probe(
        str(model), prompts=list(held_prompts), num_prompts="all", max_new_tokens=12, chat_template_kwargs=options,
        **QUIET,
    ).rollouts  # fmt: skip
    assert {row.prompt: tuple(row.prompt_ids) for row in again.itertuples()} == held_prompts
    # The ends of the host's batch are those of every other command.
    assert ends == set(end_tokens(load_model(str(model))))


def test_ends_are_those_of_generation_config_and_tokenizer(models):
    loaded = load_model(str(models["qwen3"]))
    turn, text = loaded.tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert end_tokens(loaded) == [turn, text]
    loaded.model.generation_config.eos_token_id = None
    assert end_tokens(loaded, [7]) == [text, 7]
    loaded.model.generation_config.eos_token_id = text
    assert end_tokens(loaded) == [text]


def test_a_completion_ends_at_either_end(models):
    found = antiphase.probe(
        str(models["qwen3"]), prompts=["a", "b", "c", "d"], num_prompts="all", samples=8, max_new_tokens=200,
        temperature=3.0, **QUIET,
    ).rollouts  # fmt: skip
    tokenizer = load_model(str(models["qwen3"])).tokenizer
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    last = [ids[-1] for ids, finish in zip(found.completion_ids, found.finish, strict=True) if finish == "stop"]
    assert {turn, text} == set(last)
    assert not any({turn, text} & set(ids[:-1]) for ids in found.completion_ids)


def test_a_checkpoints_own_sampling_options_stay_out_of_training(models, monkeypatch, tmp_path):
    def saved(name, **options):
        loaded = load_model(str(models["qwen3"]))
        for key, value in options.items():
            setattr(loaded.model.generation_config, key, value)
        loaded.model.save_pretrained(tmp_path / name)
        loaded.tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    common = list(range(3, 200))
    plain, other = (
        saved("plain"),
        saved("other", do_sample=True, suppress_tokens=common, min_p=0.4, no_repeat_ngram_size=1),
    )
    runs = [trained_batches(monkeypatch, model, tmp_path / f"out-{model.name}") for model in (plain, other)]
    assert runs[0][0] == runs[1][0]
    assert any(set(ids) & set(common) for _, ids in runs[1][0])
    # The trained model keeps the options for its users.
    kept = json.loads((tmp_path / "out-other" / "generation_config.json").read_text())
    assert (kept["min_p"], kept["no_repeat_ngram_size"]) == (0.4, 1)


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
    import antiphase.runs.run as module

    def stop(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(module, "model_facts", stop)
        patch.setattr(module.RunFolder, "discard_if_unused", lambda self: None)
        with pytest.raises(Stop):
            antiphase.probe(str(folder), out=out, **options)
    loaded = load_model(str(folder)).tokenizer
    loaded.chat_template = QWEN3.replace("<|im_end|>\n", "<|im_end|>")
    loaded.save_pretrained(folder)
    with pytest.raises(InvalidInputError, match=r"other token ids of the prompts.*has changed since"):
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


def test_given_rollouts_without_an_end_are_counted(models):
    tokenizer = load_model(str(models["qwen3"])).tokenizer
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    rows = [{"prompt_ids": [5, 6], "completion_ids": [*range(10, 30), *end]} for end in ([turn], [text], [], [])]
    found = antiphase.probe(str(models["qwen3"]), rollouts=rows, **QUIET)
    assert found.summary["results"][0]["num_without_end"] == 2
    assert "2 given rollouts do not end with an end token" in str(found)
    ended = antiphase.probe(str(models["qwen3"]), rollouts=rows[:2], **QUIET)
    assert "end token" not in str(ended)
    generated = antiphase.probe(str(models["qwen3"]), prompts=["a"], num_prompts="all", max_new_tokens=12, **QUIET)
    assert "num_without_end" not in generated.summary["results"][0]


def test_recipes_hold_the_options(models, tmp_path):
    recipe = parse_recipe(flags(models["qwen3"], tmp_path, chat_template_kwargs='{"enable_thinking": false}'))
    assert recipe.config.chat_template_kwargs == {"enable_thinking": False}
    assert recipe.resolved["chat_template_kwargs"] == {"enable_thinking": False}


# What a model says that opens its own thought, with A for the right answer and B for a wrong one; and whether this is
# right.
SAID = (
    ("<think>Is it B?\nNo.</think>\nThe answer is A.", True),
    ("<think>Is it A?</think>\nThe answer is B.", False),
    ("<think>It is A, I am sure of it.", False),
    ("<think></think>The answer is A. I did not think.", True),
)
# Where the template has closed the thought in the prompt.
PLAIN = (
    ("The answer is A. That was easy.", True),
    ("The answer is B. That was easy.", False),
    ("A is the answer, not <think> or B? A.", True),
    ("Nothing to say about this here.", False),
)


@pytest.mark.parametrize(("name", "thinking"), [("qwen3", "on"), ("qwen3", "off"), ("r1", "on")])
def test_verdicts_and_segments_are_those_of_the_hosts_batch(models, monkeypatch, tmp_path, name, thinking):
    tokenizer = load_model(str(models[name])).tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>") if name == "qwen3" else tokenizer.eos_token_id
    rows, right, lengths = [], [], []

    def scripted(self, prompt_ids, *_):
        answers = {row["question"]: row["answer"] for row in self.train_dataset}
        said = PLAIN if thinking == "off" else SAID
        for place, ids in enumerate(prompt_ids):
            question = next(text for text in answers if text in tokenizer.decode(ids))
            text, correct = said[place % len(said)]
            text = re.sub(r"\bA\b", answers[question], text)
            text = re.sub(r"\bB\b", str(int(answers[question]) + 1), text)
            text = text.removeprefix("<think>" * (name == "r1"))
            # White space joins the segment before it.
            thought = (re.match(r"(?s).*</think>\s*", text) or [""])[0]
            completion = [*tokenizer(text, add_special_tokens=False).input_ids, end]
            unfinished = thinking == "on" and not thought
            rows.append({"question": question, "prompt_ids": list(ids), "completion_ids": completion})
            right.append(correct)
            lengths.append(
                len(completion) if unfinished else len(tokenizer(thought, add_special_tokens=False).input_ids)
            )
        return [row["completion_ids"] for row in rows[-len(prompt_ids) :]], None

    scores, rewards = [], []
    calculate = CorRPOTrainer._calculate_rewards

    def watched(self, *arguments):
        found = calculate(self, *arguments)
        rewards.extend(found[:, 0].tolist())
        scores.extend(self._measured.scores.by_unit["token"].tolist())
        return found

    segment = "answer" if thinking == "off" else "thought"
    # The policy stays as it is, so that it can be compared with the model on disk.
    options = {"tasks": TASK, "num_problems": 40, "data_seed": 0, "eval_problems": 0, "max_steps": 2}
    options |= {"learning_rate": 0, "max_completion_length": 64}
    options |= {"inversion_unit": "token", "inversion_segment": segment}
    if THINKING[thinking] is not None:
        options["chat_template_kwargs"] = json.dumps(THINKING[thinking])
    with monkeypatch.context() as patch:
        patch.setattr(CorRPOTrainer, "_generate_single_turn", scripted)
        patch.setattr(CorRPOTrainer, "_calculate_rewards", watched)
        train(flags(models[name], tmp_path / "out", **options))
    assert rewards == [float(one) for one in right]

    shared = {
        "tasks": (TASK,),
        "split": "train",
        "num_problems": 40,
        "chat_template_kwargs": THINKING[thinking],
        **QUIET,
    }
    texts = [{key: row[key] for key in ("question", "completion_ids")} for row in rows]
    given, rendered = (antiphase.evaluate(str(models[name]), rollouts=them, **shared) for them in (rows, texts))
    by_id = given.rollouts.set_index("rollout_id")
    # The prompts that eval renders are those of the host's batch.
    pd.testing.assert_series_equal(by_id.prompt_ids, rendered.rollouts.set_index("rollout_id").prompt_ids)
    found = {(tuple(r.prompt_ids), tuple(r.completion_ids)): r for r in given.rollouts.itertuples()}
    counts = given.tokens[given.tokens.segment == "thought"].groupby("rollout_id").size()
    probed = antiphase.probe(str(models[name]), rollouts=rows, **QUIET)
    of_probe = probed.tokens[probed.tokens.segment == "thought"].groupby("rollout_id").size()
    names = {(tuple(r.prompt_ids), tuple(r.completion_ids)): r.rollout_id for r in probed.rollouts.itertuples()}
    for row, correct, length, score in zip(rows, right, lengths, scores, strict=True):
        key = (tuple(row["prompt_ids"]), tuple(row["completion_ids"]))
        assert found[key].correct == correct
        assert counts.get(found[key].rollout_id, 0) == of_probe.get(names[key], 0) == length
        expected = getattr(found[key], f"spearman_token_{segment}")
        assert score == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_a_thought_that_the_continued_message_began(models):
    chat = [{"role": "user", "content": "Why <think>?"}, {"role": "assistant", "content": "<think>\nSo"}]
    rows = [{"prompt": chat, "completion": text} for text in (" the answer is 4.", " it is 5.</think>It is 4.")]
    found = antiphase.probe(str(models["qwen3"]), rollouts=rows, continue_final=True, **QUIET)
    parts = found.tokens.groupby("rollout_id").segment.agg(lambda part: "".join(name[0] for name in part))
    assert list(parts) == ["t" * 17, "t" * 10 + "a" * 8]
    # A tag in an earlier message, and one in a plain text, begin nothing.
    ended = [chat[0], {"role": "assistant", "content": "So"}]
    for prompt, chats in ((ended, True), ("Begin with\n<think>\nplease", False)):
        rows = [{"prompt": prompt, "completion": " the answer is 4."}]
        found = antiphase.probe(str(models["qwen3"]), rollouts=rows, continue_final=True, chat_template=chats, **QUIET)
        assert set(found.tokens.segment) == {"answer"}


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
    with pytest.raises(InvalidInputError, match="verifier: verdicts 2 and None"):
        antiphase.compare([f"a={tmp_path}/a", f"b={tmp_path}/b"])
    path.unlink()
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    del config["config"]["verdict_rules"]
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match="verdict_rules was None, is '2'"):
        antiphase.evaluate(str(models["qwen3"]), out=tmp_path / "b", resume=True, **options)
