"""Chats through the templates of current families: switches, clocks, system roles, last turns, rendered texts."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphase.data.chat_template import ChatOptions, fold_system_message, is_rendered, reads_clock, unused_variables
from antiphase.data.prompt_rendering import PromptFormat, prompts_digest, tokenizer_digest
from antiphase.data.prompts import checked_content, load_prompts
from antiphase.errors import InvalidInputError
from conftest import byte_tokenizer
from thinking_cases import DATED, QWEN3, R1, SILENT, STRICT, thinking_tokenizer

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
OPEN = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}]


def text_of(content, template=QWEN3, tokenizer=None, *, system=None, **options):
    tokenizer = tokenizer or thinking_tokenizer(template)
    form = PromptFormat(system_prompt=system, chat=ChatOptions(**options))
    return tokenizer.decode(form.encode(tokenizer, content, "here"))


def test_a_switch_reaches_the_template() -> None:
    on = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text_of("hi") == text_of("hi", template_kwargs={"enable_thinking": True}) == on
    assert text_of("hi", template_kwargs={"enable_thinking": False}) == on + "<think>\n\n</think>\n\n"
    assert text_of("hi", R1) == "<s><|User|>hi<|Assistant|><think>\n"


def test_switches_that_no_template_reads_are_known() -> None:
    tokenizer = thinking_tokenizer()
    assert unused_variables(tokenizer, ["enable_thinking", "thinking", "add_generation"]) == [
        "thinking",
        "add_generation",
    ]
    assert unused_variables(byte_tokenizer(), ["enable_thinking"]) == ["enable_thinking"]


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "chat_template", "strftime_now"])
def test_a_switch_may_not_be_an_argument_of_ours(name) -> None:
    with pytest.raises(InvalidInputError, match=f"must not hold {name}"):
        ChatOptions({name: True})


def test_the_clock_stands_where_it_is_set() -> None:
    assert reads_clock(thinking_tokenizer(DATED))
    assert not reads_clock(thinking_tokenizer())
    assert not reads_clock(byte_tokenizer())
    assert "user 03 Feb 2031\nhi" in text_of("hi", DATED, moment="2031-02-03T23:59:59")
    assert datetime.datetime.now().strftime("%Y") in text_of("hi", DATED)


def test_a_still_clock_changes_nothing_else() -> None:
    asks = '\n {% if strftime_now is defined %}{{ strftime_now("%H:%M") }}{% endif %}'
    asks += "{% macro day() %}{{ strftime_now( '%d%%' ) }}{% endmacro %}{{ day() }} {{ messages[0].content }}"
    tokenizer = byte_tokenizer(asks)
    assert text_of("hi", tokenizer=tokenizer, moment="2031-02-03T23:59:59") == "\n23:5903% hi"
    for asks, shown in (
        ("{% set form = '%d' %}{{ strftime_now(form) }}", "03"),
        ("{{ strftime_now(format='%-d.%-m.%Y') }}", "3.2.2031"),
        ("{{ strftime_now('it\\'s %H:%M, 100%%') }}", "it's 23:59, 100%"),
        ("{{ strftime_now('') }}|{{ strftime_now('%A') | upper }}", "|MONDAY"),
    ):
        assert text_of("hi", tokenizer=byte_tokenizer(asks), moment="2031-02-03T23:59:59") == shown
        assert text_of("hi", tokenizer=byte_tokenizer(asks))
    with pytest.raises(InvalidInputError, match="strftime has no code %Q"):
        text_of("hi", tokenizer=byte_tokenizer("{{ strftime_now('%Q') }}"), moment="2031-02-03T23:59:59")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_variables_are_what_json_can_hold(value) -> None:
    with pytest.raises(InvalidInputError, match="values that JSON can hold"):
        ChatOptions({"enable_thinking": value})


def test_system_messages_that_a_template_refuses_or_drops() -> None:
    for template, words in ((STRICT, "no system role"), (SILENT, "drops the system message")):
        for content, system in ((SYSTEM, None), ("Why?", "Be brief.")):
            with pytest.raises(InvalidInputError, match=f"here: .*{words}.*--fold-system"):
                text_of(content, template, system=system)
            assert text_of(content, template, system=system, fold_system=True).startswith(
                "<|im_start|>user\nBe brief.\n\nWhy?<|im_end|>\n<|im_start|>assistant"
            )


def test_folding_keeps_every_other_message() -> None:
    assert fold_system_message(OPEN) == OPEN
    assert fold_system_message(SYSTEM[:1]) == [{"role": "user", "content": "Be brief."}]
    assert fold_system_message([*SYSTEM, *OPEN[1:]])[1:] == OPEN[1:]
    assert fold_system_message([SYSTEM[0], OPEN[1]]) == [{"role": "user", "content": "Be brief."}, OPEN[1]]


def test_the_assistants_last_turn_is_refused_or_continued() -> None:
    with pytest.raises(InvalidInputError, match=r"here: the last message .* assistant's.*--continue-final"):
        text_of(OPEN)
    shown = text_of(OPEN, continue_final=True)
    assert shown == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause"
    assert text_of(OPEN[:1], continue_final=True) == text_of("Why?")


def test_text_parts_are_read_and_other_keys_are_kept(tmp_path) -> None:
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}],'
        ' "name": "ada", "tool_calls": null}]}'
    )
    (prompt,) = load_prompts(str(path), None)
    assert prompt.content == [{"role": "user", "content": "Why?", "name": "ada"}]
    assert text_of(prompt.content) == text_of("Why?")
    for bad, words in (
        ([*parts, {"type": "image", "image": "x.png"}], "a part of type 'image'"),
        ([{"type": "text"}], "a part of type 'text'"),
        ([{}], "a part of type None"),
        ([], "must be a non-empty string"),
        (["hi"], "must be a non-empty string"),
        (None, "must be a non-empty string"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            checked_content([{"role": "user", "content": bad}], "here")


@pytest.mark.parametrize("template", [QWEN3, R1, DATED])
def test_a_rendered_text_is_not_wrapped_again(template) -> None:
    tokenizer = thinking_tokenizer(template)
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
    )
    assert is_rendered(shown, tokenizer)
    assert text_of(shown, tokenizer=tokenizer) == shown
    for content in ("Why?", "Why <|im_end|>?", "What does <think> mean?", "[user] hi"):
        assert not is_rendered(content, tokenizer)


def test_a_rendered_text_without_control_tokens_begins_and_ends_as_the_template_does() -> None:
    tokenizer = byte_tokenizer("{% for m in messages %}User: {{ m.content }}\n{% endfor %}Assistant:")
    assert is_rendered("User: hi\nAssistant:", tokenizer)
    assert not is_rendered("User: hi", tokenizer)
    assert not is_rendered("hi\nAssistant:", tokenizer)
    bare = byte_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert not is_rendered("hi", bare)
    refusing = byte_tokenizer("{{ raise_exception('nothing') }}")
    assert not is_rendered("hi", refusing)


def test_a_rendered_text_after_white_space_keeps_its_one_bos() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = thinking_tokenizer(R1)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    ids = PromptFormat().encode(tokenizer, "\n<s><|User|>hi<|Assistant|><think>\n", "here")
    assert ids.count(1) == 1


def test_what_cannot_go_into_a_rendered_text_is_refused() -> None:
    shown = text_of("Why?")
    for options, words in (
        ({"system": "Be brief."}, "the system prompt"),
        ({"template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ):
        with pytest.raises(InvalidInputError, match=f"here: the prompt is the text of a rendered chat.*{words}"):
            text_of(shown, **options)
    tokenizer = thinking_tokenizer()
    with pytest.raises(InvalidInputError, match="the prompt template cannot be put"):
        PromptFormat("{prompt}!").encode(tokenizer, shown, "here")
    assert PromptFormat("{prompt}").encode(tokenizer, shown, "here")
    assert PromptFormat(chat_template=False).encode(tokenizer, shown, "here")


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_any_question_keeps_its_text(question) -> None:
    tokenizer = thinking_tokenizer()
    expected = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    if not question.strip().startswith(("<s>", "<|im_")):
        assert text_of(question, tokenizer=tokenizer) == expected


def test_digests_tell_prompts_and_tokenizers_apart() -> None:
    assert prompts_digest([[1, 2], [3]]) == prompts_digest([(1, 2), (3,)]) != prompts_digest([[1], [2, 3]])
    plain, other = thinking_tokenizer(), thinking_tokenizer(DATED)
    assert tokenizer_digest(plain) == tokenizer_digest(thinking_tokenizer()) != tokenizer_digest(other)
