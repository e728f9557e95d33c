"""Render a chat with the tokenizer's chat template. Probes, evaluations and trainings all use this module.

The functions here find four cases that would otherwise go unnoticed:

* The chat template never reads a variable that the user set.
* The chat template reads the time, so a prompt changes from day to day.
* The chat template drops or refuses a system message.
* The prompt has already been rendered by a template.

`prompt_rendering` makes chats of plain texts.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from antiphase.data.prompts import Messages
from antiphase.errors import InvalidInputError

# Arguments of `apply_chat_template` that antiphase sets itself.
_RESERVED = frozenset(
    {"conversation", "messages", "tokenize", "return_dict", "return_tensors", "add_generation_prompt", "chat_template",
     "continue_final_message", "return_assistant_tokens_mask", "padding", "truncation", "max_length", "strftime_now"}
)  # fmt: skip
# The function with which a template asks for the time. transformers offers it to every template.
_CLOCK = "strftime_now"
# The codes of `strftime` that a template may use, and a private character that takes the place of `%%`.
_TIME_CODES = (
    "a A b B c C d D e F G g h H I j k l m M n p P r R S s T t u U V w W x X y Y z Z f -d -m -H -I -M -S -j -y"
)
_PERCENT = "\ue000"
_PLACEHOLDER = "antiphase-placeholder"


@functools.lru_cache(maxsize=16)
def with_fixed_time(template: str, moment: str) -> str:
    """Return a chat template that always reads the same time.

    A template asks for the time by calling `strftime_now(format)`, a function of transformers. The returned template
    begins with a macro of this name, which replaces the function and writes the fixed time in any format of
    `strftime`.

    Args:
        template: the chat template.
        moment: the time that the template reads, in ISO format.
    """
    shown = datetime.fromisoformat(moment)
    known = {code: shown.strftime(f"%{code}") for code in _TIME_CODES.split()}
    # `%%` stands for a percent sign. It is kept apart while the format is split at the other percent signs.
    parts = f"(format | string).replace('%%', '{_PERCENT}').split('%')"
    written = (
        "{%- if loop.first -%}{{- part -}}"
        "{%- elif part[:2] in known -%}{{- known[part[:2]] ~ part[2:] -}}"
        "{%- elif part[:1] in known -%}{{- known[part[:1]] ~ part[1:] -}}"
        "{%- else -%}{{- raise_exception('strftime has no code %' ~ part[:1]) -}}{%- endif -%}"
    )
    text = f"{{%- set text -%}}{{%- for part in {parts} -%}}{written}{{%- endfor -%}}{{%- endset -%}}"
    result = f"{{{{- text.replace('{_PERCENT}', '%') -}}}}"
    return f"{{%- macro {_CLOCK}(format) -%}}{{%- set known = {known!r} -%}}{text}{result}{{%- endmacro +%}}{template}"


@dataclass(frozen=True)
class ChatOptions:
    """Options for calling the chat template.

    Args:
        template_kwargs: values of variables that the template may read, such as `{"enable_thinking": False}`.
        fold_system: whether the text of the system message is moved to the beginning of the first user message. Some
            templates refuse or drop a system message.
        continue_final: whether a chat may end with a message of the assistant, which the model then continues. If not,
            such a chat is refused.
        moment: the time, in ISO format, that a template reads when it asks for the time; None is the present time.

    Raises:
        InvalidInputError: `template_kwargs` names an argument that antiphase sets itself, or has a value that JSON
            cannot hold, such as NaN.
    """

    template_kwargs: Mapping[str, Any] | None = None
    fold_system: bool = False
    continue_final: bool = False
    moment: str | None = None

    def __post_init__(self) -> None:
        taken = sorted(_RESERVED & set(self.template_kwargs or ()))
        if taken:
            raise InvalidInputError(
                f"chat_template_kwargs must not hold {', '.join(taken)}: antiphase sets this itself. Give variables "
                'that the chat template reads, such as {"enable_thinking": false}.'
            )
        try:
            json.dumps(self.template_kwargs, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"chat_template_kwargs must be values that JSON can hold ({error}), such as "
                '{"enable_thinking": false}.'
            ) from None

    def arguments(self, tokenizer: Any) -> dict[str, Any]:
        """Return the keyword arguments for the tokenizer's `apply_chat_template`."""
        return {**(self.template_kwargs or {}), "chat_template": self.template_of(tokenizer)}

    def template_of(self, tokenizer: Any) -> str | None:
        """Return a copy of the tokenizer's chat template that reads `moment` as the time.

        Return None if no change is needed: `moment` is None, or the template does not ask for the time.
        """
        if self.moment is None or not reads_clock(tokenizer):
            return None
        return with_fixed_time(str(tokenizer.get_chat_template()), self.moment)


def reads_clock(tokenizer: Any) -> bool:
    """Return whether the tokenizer's chat template asks for the time. Its prompts then change from day to day."""
    return tokenizer.chat_template is not None and _CLOCK in str(tokenizer.chat_template)


def unused_variables(tokenizer: Any, names: Sequence[str]) -> list[str]:
    """Return the variables in `names` that the tokenizer's chat template does not mention. They have no effect."""
    template = str(tokenizer.chat_template or "")
    return [name for name in names if re.search(rf"\b{re.escape(name)}\b", template) is None]


def fold_system_message(messages: Messages) -> Messages:
    r"""Return the chat with the text of its system message moved to the beginning of the first user message.

    A blank line separates the two texts. A chat without a system message is returned unchanged.

    >>> fold_system_message([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    [{'role': 'user', 'content': 'Be brief.\n\nWhy?'}]
    """
    if messages[0]["role"] != "system":
        return messages
    text, rest = messages[0]["content"], messages[1:]
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": text}, *rest]
    return [{**rest[0], "content": f"{text}\n\n{rest[0]['content']}"}, *rest[1:]]


def chat_token_ids(tokenizer: Any, messages: Messages, place: str, options: ChatOptions) -> list[int]:
    """Return the token ids of a chat as the model sees it before it writes the answer.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: the chat.
        place: where the chat was read, such as `prompts.jsonl, line 3`. Error messages begin with it.
        options: options for calling the template.

    Raises:
        InvalidInputError: the last message is the assistant's and `continue_final` is not set, the template refuses
            the messages or the variables, or the template drops the system message.
    """
    continues = messages[-1]["role"] == "assistant"
    if continues and not options.continue_final:
        raise InvalidInputError(
            f"{place}: the last message of the chat is the assistant's, so there is nothing to answer. Remove this "
            "message, or use --continue-final to let the model continue it."
        )
    call = functools.partial(
        _render,
        tokenizer,
        messages,
        place,
        add_generation_prompt=not continues,
        continue_final_message=continues,
        **options.arguments(tokenizer),
    )
    if messages[0]["role"] == "system" and messages[0]["content"].strip() not in call(tokenize=False):
        raise InvalidInputError(
            f"{place}: the model's chat template drops the system message without an error. Use --fold-system to put "
            "the system message before the question, or remove the system message."
        )
    return [int(token) for token in call(tokenize=True, return_dict=False)]


def _render(tokenizer: Any, messages: Messages, place: str, **arguments: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, **arguments)
    except (TemplateError, ValueError, TypeError) as error:
        system = messages[0]["role"] == "system"
        mend = "Use --fold-system to put the system message before the question, or use" if system else "Use"
        raise InvalidInputError(
            f"{place}: the model's chat template refuses these messages ({' '.join(str(error).split())}). {mend} "
            "--no-chat-template."
        ) from error


def is_rendered(text: str, tokenizer: Any) -> bool:
    """Return whether a prompt is the text of a chat that a template has already rendered.

    Such a text must not be rendered again. A text counts as rendered in two cases:

    * It begins with the BOS token (the token that begins a sequence), or with another control token that the template
      writes before a user's message.
    * It begins with the text that the template writes before a user's message, and ends with the text that the
      template writes after it.

    Args:
        text: the prompt.
        tokenizer: a tokenizer with a chat template.
    """
    bos = tokenizer.bos_token
    text = text.strip()
    if bos is not None and text.startswith(bos):
        return True
    controls, head, tail = _around_message(tokenizer)
    if any(text.startswith(token) for token in controls):
        return True
    return bool(head and tail) and text.startswith(head) and text.endswith(tail)


@functools.lru_cache(maxsize=16)
def _around_message(tokenizer: Any) -> tuple[tuple[str, ...], str, str]:
    """Return what the chat template writes around a user's message.

    Returns:
        (the control tokens before the message, the whole text before it, the whole text after it). All are empty if
        the template refuses a chat that consists of one message of the user.
    """
    from jinja2 import TemplateError

    chat = [{"role": "user", "content": _PLACEHOLDER}]
    try:
        shown = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError):
        return (), "", ""
    before, _, after = shown.partition(_PLACEHOLDER)
    before = before.strip()
    if tokenizer.bos_token is not None:
        before = before.removeprefix(tokenizer.bos_token).lstrip()
    controls = [token for token in tokenizer.get_added_vocab() if token.strip() and token in before]
    return tuple(controls), before, after.strip()
