"""Prompts and rollouts from every source, and how prompts are wrapped."""

import json
import types

import numpy as np
import pandas as pd
import pytest

from antiphase.data.given_rollouts import load_rollouts
from antiphase.data.prompt_rendering import PromptFormat, encode_rollout
from antiphase.data.prompts import load_prompts
from antiphase.errors import InvalidInputError
from conftest import byte_tokenizer


def test_built_in_questions() -> None:
    prompts = load_prompts("gsm8k", None)
    assert len(prompts) == 1319
    assert prompts[0].prompt_id == "gsm8k_test-0"
    assert str(prompts[0].content).startswith("Janet’s ducks lay 16 eggs per day.")
    assert [p.prompt_id for p in load_prompts("gsm8k", 3)] == [p.prompt_id for p in prompts[:3]]


def test_jsonl_keeps_line_breaks_inside_strings(tmp_path) -> None:
    text = "one\u2028two\u0085three"
    path = tmp_path / "p.jsonl"
    path.write_text("\n" + json.dumps({"question": text, "id": 7}, ensure_ascii=False) + "\n", encoding="utf-8")
    (prompt,) = load_prompts(str(path), None)
    assert (prompt.prompt_id, prompt.content) == ("7", text)


def test_parquet_chats_and_named_columns(tmp_path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    pd.DataFrame({"messages": [chat, chat], "note": ["a", "b"]}).to_parquet(tmp_path / "p.parquet")
    assert [p.content for p in load_prompts(str(tmp_path / "p.parquet"), None)] == [chat, chat]
    named = load_prompts(str(tmp_path / "p.parquet"), 2, column="note")
    assert [(p.prompt_id, p.content) for p in named] == [("p-0", "a"), ("p-1", "b")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("openai/gsm8k", ("openai/gsm8k", None, "test")),
        ("openai/gsm8k:main", ("openai/gsm8k", "main", "test")),
        ("openai/gsm8k:main:train", ("openai/gsm8k", "main", "train")),
        ("o/d::validation", ("o/d", None, "validation")),
    ],
)
def test_hub_data_sets(monkeypatch: pytest.MonkeyPatch, source: str, expected: tuple) -> None:
    class Streamed(list):
        def take(self, count: int):
            return self[:count]

    calls = []

    def load_dataset(name, config, *, split, streaming):
        calls.append((name, config, split))
        return Streamed({"question": f"q{i}", "answer": i} for i in range(9))

    monkeypatch.setitem(__import__("sys").modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    prompts = load_prompts(source, 2)
    assert calls == [expected]
    assert [p.content for p in prompts] == ["q0", "q1"]


def test_absent_hub_data_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_, **__):
        raise FileNotFoundError("Dataset 'no/such' doesn't exist\nmore")

    monkeypatch.setitem(__import__("sys").modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InvalidInputError, match=r"'no/such' could not be read \(Dataset 'no/such' doesn't exist\)"):
        load_prompts("no/such", 2)


def test_prompts_without_ids_share_one_where_equal() -> None:
    rows = [{"prompt": p, "completion": "x"} for p in ("a", "b", "a")] + [
        {"prompt_ids": np.array([1, 2]), "completion_ids": np.array([3])},
        {"prompt_ids": (1, 2), "completion_ids": [np.int64(4)]},
        {"question": "c", "response": "y", "prompt_id": 9, "rollout_id": "r"},
    ]
    rollouts = load_rollouts(rows)
    assert [r.prompt_id for r in rollouts] == ["prompt-0", "prompt-1", "prompt-0", "prompt-2", "prompt-2", "9"]
    assert [r.rollout_id for r in rollouts] == [
        "prompt-0/0", "prompt-1/0", "prompt-0/1", "prompt-2/0", "prompt-2/1", "r",
    ]  # fmt: skip
    assert rollouts[3].prompt_ids == (1, 2)
    assert [r.prompt for r in load_rollouts(rows, limit=2)] == ["a", "b", "a"]


def test_rollout_named_twice() -> None:
    with pytest.raises(InvalidInputError, match="'r' stands twice"):
        load_rollouts([{"prompt": "a", "completion": text, "rollout_id": "r"} for text in ("b", "c")])
    # The table of a run holds a rollout once for every estimator.
    assert len(load_rollouts([{"prompt": "a", "completion": "b", "rollout_id": "r"}] * 2)) == 1
    frame = pd.DataFrame({"prompt": ["a", "b"], "completion": ["x", "y"], "spearman": [0.1, None]})
    assert [r.prompt for r in load_rollouts(frame)] == ["a", "b"]


def test_text_that_is_no_text() -> None:
    for row in ({"prompt": "\ud800", "completion": "b"}, {"prompt": "a", "completion": "\udfff"}):
        with pytest.raises(InvalidInputError, match="rollout 0: the text holds"):
            load_rollouts([row])
    with pytest.raises(InvalidInputError, match="prompt 1: the text holds"):
        load_prompts(["fine", "half \ud83d"], None)


def test_json_list(tmp_path) -> None:
    path = tmp_path / "p.json"
    path.write_text('[{"prompt": "a"},\n {"prompt": "b"}]')
    assert [p.content for p in load_prompts(str(path), None)] == ["a", "b"]
    path.write_text("[1]")
    with pytest.raises(InvalidInputError, match="item 0: expected a JSON object"):
        load_prompts(str(path), None)


CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def text_of(form: PromptFormat, content, chat_template: str | None = CHAT) -> str:
    tokenizer = byte_tokenizer(chat_template)
    return tokenizer.decode(form.encode(tokenizer, content, "here"))


def test_prompt_formats() -> None:
    braces = "{prompt} in \\boxed{}"
    assert text_of(PromptFormat(), "hi") == "[user]hi>"
    assert text_of(PromptFormat(template=braces), "hi") == "[user]hi in \\boxed{}>"
    assert text_of(PromptFormat(system_prompt="be"), "hi") == "[system]be[user]hi>"
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    assert text_of(PromptFormat(), turns) == "[user]a[assistant]b[user]c>"
    assert text_of(PromptFormat(chat_template=False), "hi") == "hi"
    assert text_of(PromptFormat(), "hi", None) == "hi"
    assert text_of(PromptFormat(template=braces, system_prompt="be"), "hi", None) == "be\n\nhi in \\boxed{}"
    assert text_of(PromptFormat("{prompt}", chat_template=False), "{prompt} {x}") == "{prompt} {x}"


def test_chat_template_that_refuses_is_named() -> None:
    strict = "{{ raise_exception('no system role') if messages[0]['role'] == 'system' }}" + CHAT
    with pytest.raises(InvalidInputError, match=r"here: .*no system role.*--fold-system"):
        text_of(PromptFormat(system_prompt="be"), "hi", strict)
    with pytest.raises(InvalidInputError, match="has a system message already"):
        text_of(PromptFormat(system_prompt="be"), [{"role": "system", "content": "a"}])


def test_rendered_prompt_keeps_its_one_bos() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    form = PromptFormat("{prompt}", chat_template=False)
    assert form.encode(tokenizer, "hi", "here")[0] == 1
    assert form.encode(tokenizer, "<s>hi", "here") == form.encode(tokenizer, "hi", "here")


def test_chat_without_template_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="here: the prompt is a chat"):
        text_of(PromptFormat(), [{"role": "user", "content": "a"}], None)


def test_completion_text_gets_no_special_tokens() -> None:
    tokenizer = byte_tokenizer(CHAT)
    (rollout,) = load_rollouts([{"prompt": "a", "completion": "bc"}])
    prompt, completion = encode_rollout(tokenizer, rollout, PromptFormat())
    assert tokenizer.decode(prompt) == "[user]a>"
    assert tokenizer.decode(completion) == "bc"
    (ids,) = load_rollouts([{"prompt_ids": [4, 5], "completion_ids": [6]}])
    assert encode_rollout(tokenizer, ids, PromptFormat()) == ([4, 5], [6])
