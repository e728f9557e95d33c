"""Render a chat with the tokenizer's own chat template, for probe, evaluation, training and held-out problems alike.

This module knows what templates do that a caller cannot see: they read switches such as `enable_thinking`, they read
the clock, they drop or refuse a system message, and a text may have gone through them already.
"""

import functools
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
# The function with which a template reads the clock. transformers puts it into every template.
_CLOCK = "strftime_now"
_FORMAT = re.compile(rf"\b{_CLOCK}\(\s*(['\"])(.*?)\1")
_PLACEHOLDER = "antiphase-placeholder"


def with_still_clock(template: str, moment: str) -> str:
    """Return a chat template whose clock stands still: wherever it asks for the time, it reads the same one.

    A macro takes the place of the function that transformers gives to templates. It knows every format that the
    template writes as a text, and refuses others.

    Args:
        template: the chat template.
        moment: the time, in ISO format.
    """
    shown = datetime.fromisoformat(moment)
    cases = "".join(
        f"{{%- if form == {form!r} -%}}{shown.strftime(form)}{{%- set known = true -%}}{{%- endif -%}}"
        for form in dict.fromkeys(found for _, found in _FORMAT.findall(template))
    )
    refusal = "{{- raise_exception('the time is asked for in a form that the template computes') -}}"
    macro = f"{{%- macro {_CLOCK}(form) -%}}{cases}{{%- if not known -%}}{refusal}{{%- endif -%}}{{%- endmacro +%}}"
    return macro + template


@dataclass(frozen=True)
class ChatOptions:
    """How the chat template is called.

    Args:
        template_kwargs: variables that the template reads, such as `{"enable_thinking": False}`.
        fold_system: whether a system message is put before the first user message, for templates that refuse or drop
            the system role.
        continue_final: whether a last message of the assistant is continued; it is refused otherwise.
        moment: the time in ISO format that the template reads where it asks for the time; None is the present time.

    Raises:
        InvalidInputError: `template_kwargs` names an argument that antiphase sets itself.
    """

    template_kwargs: Mapping[str, Any] | None = None
    fold_system: bool = False
    continue_final: bool = False
    moment: str | None = None

    def __post_init__(self) -> None:
        taken = sorted(_RESERVED & set(self.template_kwargs or ()))
        if taken:
            raise InvalidInputError(
                f"chat_template_kwargs may not hold {', '.join(taken)}: antiphase sets this itself. Give variables "
                'that the chat template reads, such as {"enable_thinking": false}.'
            )

    def arguments(self, tokenizer: Any) -> dict[str, Any]:
        """The keyword arguments of the tokenizer's `apply_chat_template`."""
        return {**(self.template_kwargs or {}), "chat_template": self.template_of(tokenizer)}

    def template_of(self, tokenizer: Any) -> str | None:
        """The chat template with its clock at `moment`; None where the tokenizer's own template serves."""
        if self.moment is None or not reads_clock(tokenizer):
            return None
        return with_still_clock(str(tokenizer.get_chat_template()), self.moment)


def reads_clock(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template asks for the time, so that prompts differ from day to day."""
    return tokenizer.chat_template is not None and _CLOCK in str(tokenizer.chat_template)


def unread(tokenizer: Any, names: Sequence[str]) -> list[str]:
    """The variables that the tokenizer's chat template does not mention. Setting them would have no effect."""
    template = str(tokenizer.chat_template or "")
    return [name for name in names if re.search(rf"\b{re.escape(name)}\b", template) is None]


def folded(messages: Messages) -> Messages:
    r"""The chat with its system message put before the first user message, with a blank line between.

    >>> folded([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    [{'role': 'user', 'content': 'Be brief.\n\nWhy?'}]
    """
    if messages[0]["role"] != "system":
        return messages
    text, rest = messages[0]["content"], messages[1:]
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": text}, *rest]
    return [{**rest[0], "content": f"{text}\n\n{rest[0]['content']}"}, *rest[1:]]


def chat_token_ids(tokenizer: Any, messages: Messages, place: str, options: ChatOptions) -> list[int]:
    """Return the token ids of a chat, up to where the assistant's next words begin.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: the chat.
        place: where the chat comes from, for error messages.
        options: how the template is called.

    Raises:
        InvalidInputError: the last message is the assistant's and is not to be continued, the template refuses the
            messages or its variables, or it drops the system message.
    """
    going_on = messages[-1]["role"] == "assistant"
    if going_on and not options.continue_final:
        raise InvalidInputError(
            f"{place}: the last message of the chat is the assistant's, so there is nothing to answer. Leave this "
            "message out, or let the model continue it with --continue-final."
        )
    call = functools.partial(
        _render,
        tokenizer,
        messages,
        place,
        add_generation_prompt=not going_on,
        continue_final_message=going_on,
        **options.arguments(tokenizer),
    )
    if messages[0]["role"] == "system" and messages[0]["content"].strip() not in call(tokenize=False):
        raise InvalidInputError(
            f"{place}: the model's chat template drops the system message without an error. Put the message before "
            "the question with --fold-system, or leave it out."
        )
    return [int(token) for token in call(tokenize=True, return_dict=False)]


def _render(tokenizer: Any, messages: Messages, place: str, **arguments: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, **arguments)
    except (TemplateError, ValueError, TypeError) as error:
        system = messages[0]["role"] == "system"
        mend = "Put the system message before the question with --fold-system, or use" if system else "Use"
        raise InvalidInputError(
            f"{place}: the model's chat template refuses these messages ({' '.join(str(error).split())}). {mend} "
            "--no-chat-template."
        ) from error


def is_rendered(text: str, tokenizer: Any) -> bool:
    """Whether a prompt was rendered with the tokenizer's chat template already, so that it must not be wrapped again.

    A rendered text begins with the BOS token or with another control token that the template writes before a user's
    message. If the template writes no control token there, the text must begin and end as the template begins and ends
    a chat.

    Args:
        text: the prompt.
        tokenizer: a tokenizer with a chat template.
    """
    bos = tokenizer.bos_token
    text = text.strip()
    if bos is not None and text.startswith(bos):
        return True
    controls, head, tail = _frame(tokenizer)
    if any(text.startswith(token) for token in controls):
        return True
    return bool(head and tail) and text.startswith(head) and text.endswith(tail)


@functools.lru_cache(maxsize=16)
def _frame(tokenizer: Any) -> tuple[tuple[str, ...], str, str]:
    """What the chat template writes around a message: control tokens before it, and the texts before and after it."""
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
