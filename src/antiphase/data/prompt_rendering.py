"""Turn a prompt into the token ids that a model sees: with the chat template if there is one, else as plain text.

`chat_template` renders the chats; `prompts` and `given_rollouts` read the prompts.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphase.data.chat_template import ChatOptions, chat_token_ids, fold_system_message, is_rendered
from antiphase.data.given_rollouts import GivenRollout
from antiphase.data.prompts import Messages
from antiphase.errors import InvalidInputError


def check_used(template_kwargs: Mapping[str, Any] | None, chat_template: bool | None) -> None:
    """Raise InvalidInputError if the user sets variables of the chat template, but switches the chat template off."""
    if template_kwargs and chat_template is False:
        raise InvalidInputError(
            f"chat_template_kwargs {dict(template_kwargs)!r} would have no effect, because the chat template is not "
            "used (--no-chat-template). Leave one of the two out."
        )


@dataclass(frozen=True)
class PromptFormat:
    """Options that say what is put around every prompt. Probes, evaluations and trainings use them.

    Args:
        template: a text with `{prompt}` in it, which is put around every plain-text prompt; None leaves the prompt as
            it is.
        system_prompt: the system message of the chat. Without a chat template, this text and a blank line are put
            before the prompt.
        chat_template: whether the tokenizer's chat template is applied, if it has one.
        chat: options for calling the chat template.

    Raises:
        InvalidInputError: the template lacks `{prompt}`.
    """

    template: str | None = None
    system_prompt: str | None = None
    chat_template: bool = True
    chat: ChatOptions = field(default_factory=ChatOptions)

    def __post_init__(self) -> None:
        if self.template is not None and "{prompt}" not in self.template:
            raise InvalidInputError(f"the prompt template must contain {{prompt}}; got {self.template!r}.")

    def makes_chats(self, tokenizer: Any) -> bool:
        """Return whether prompts for this tokenizer are rendered as chats."""
        return self.chat_template and tokenizer.chat_template is not None

    def wrapped(self, content: str | Messages, place: str, *, chat: bool) -> str | Messages:
        """Return the prompt with the prompt template and the system prompt around it.

        The result is a list of messages if `chat` is true, else a text.

        Args:
            content: a text or a chat. The prompt template is put around a text only.
            place: where the prompt was read, for error messages.
            chat: whether a chat template will be applied to the result.

        Raises:
            InvalidInputError: the prompt is a chat and no chat template is in use, or the chat has a system message
                and a system prompt is set as well.
        """
        if isinstance(content, str):
            content = content if self.template is None else self.template.replace("{prompt}", content)
            if not chat:
                return content if self.system_prompt is None else f"{self.system_prompt}\n\n{content}"
            content = [{"role": "user", "content": content}]
        elif not chat:
            raise InvalidInputError(
                f"{place}: the prompt is a chat, but the tokenizer has no chat template, or the template is switched "
                "off. Give the prompt as text, or use a chat template."
            )
        if self.system_prompt is not None:
            if content[0]["role"] == "system":
                raise InvalidInputError(
                    f"{place}: the chat has a system message already. Do not give a system prompt as well."
                )
            content = [{"role": "system", "content": self.system_prompt}, *content]
        return fold_system_message(content) if self.chat.fold_system else content

    def is_rendered(self, content: str | Messages, tokenizer: Any, place: str) -> bool:
        """Return whether the prompt is the text of a chat that a template has already rendered.

        Such a prompt is used unchanged.

        Raises:
            InvalidInputError: the text is already rendered, and the user sets a system prompt, a prompt template or
                variables of the chat template, which cannot be put into such a text.
        """
        if not isinstance(content, str) or not self.makes_chats(tokenizer) or not is_rendered(content, tokenizer):
            return False
        for what, value in (
            ("the system prompt", self.system_prompt),
            ("the prompt template", self.template),
            ("chat_template_kwargs", self.chat.template_kwargs),
        ):
            if value not in (None, {}, "{prompt}"):
                raise InvalidInputError(
                    f"{place}: the prompt is the text of a rendered chat ({content.strip()[:24]!r}…), into which "
                    f"{what} cannot be put. Leave this option out, or give the prompt as plain text or messages."
                )
        return True

    def encode(self, tokenizer: Any, content: str | Messages, place: str) -> list[int]:
        """Return the token ids of the prompt. A completion begins after them.

        Args:
            tokenizer: the model's tokenizer.
            content: a text or a chat. The text of a chat that a template has already rendered is used unchanged.
            place: where the prompt was read, such as `prompts.jsonl, line 3`. Error messages begin with it.

        Raises:
            InvalidInputError: the prompt has no tokens; the prompt is a chat and no chat template is in use; the chat
                template refuses the chat; the chat ends with a message of the assistant, which is not to be continued;
                or the user sets a system prompt, a prompt template or variables of the chat template, and the prompt
                is already rendered.
        """
        if self.is_rendered(content, tokenizer, place):
            return prompt_token_ids(tokenizer, content, place)
        wrapped = self.wrapped(content, place, chat=self.makes_chats(tokenizer))
        return prompt_token_ids(tokenizer, wrapped, place, self.chat)


def prompt_token_ids(
    tokenizer: Any, wrapped: str | Messages, place: str, chat: ChatOptions | None = None
) -> list[int]:
    """Return the token ids of a wrapped prompt. A chat is rendered with the chat template; a text is used unchanged.

    Args:
        tokenizer: the model's tokenizer.
        wrapped: the prompt as `PromptFormat.wrapped` returns it.
        place: where the prompt was read, for error messages.
        chat: options for calling the chat template; None uses the defaults of `ChatOptions`.

    Raises:
        InvalidInputError: `chat_token_ids` refuses the chat, or the prompt has no tokens.
    """
    if isinstance(wrapped, str):
        # A prompt that was rendered before already has a BOS token. A second one would change every number.
        rendered = tokenizer.bos_token is not None and wrapped.lstrip().startswith(tokenizer.bos_token)
        ids = tokenizer(wrapped, add_special_tokens=not rendered).input_ids
    else:
        ids = chat_token_ids(tokenizer, wrapped, place, chat or ChatOptions())
    if not ids:
        raise InvalidInputError(
            f"{place}: the prompt has no tokens, so nothing predicts the first completion token. Give a prompt "
            "with at least one token."
        )
    return [int(token) for token in ids]


def prompts_digest(prompts: Iterable[Sequence[int]]) -> str:
    """Return the SHA-256 digest of the token ids of prompts. The order of the prompts matters."""
    digest = hashlib.sha256()
    for ids in prompts:
        digest.update(f"{[int(token) for token in ids]}\n".encode())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 digest of a tokenizer's vocabulary and chat template."""
    known = (sorted(tokenizer.get_vocab().items()), str(tokenizer.chat_template))
    return hashlib.sha256(repr(known).encode("utf-8", "surrogatepass")).hexdigest()


def encode_rollout(tokenizer: Any, rollout: GivenRollout, prompt_format: PromptFormat) -> tuple[list[int], list[int]]:
    """Return (the token ids of a given rollout's prompt, the token ids of its completion).

    Given token ids are returned unchanged. If the rollout holds texts, the prompt is rendered by `prompt_format`, and
    the completion is tokenised without special tokens.
    """
    if rollout.prompt_ids is not None and rollout.completion_ids is not None:
        return list(rollout.prompt_ids), list(rollout.completion_ids)
    assert rollout.prompt is not None
    assert rollout.completion is not None
    prompt = prompt_format.encode(tokenizer, rollout.prompt, rollout.place)
    completion = tokenizer(rollout.completion, add_special_tokens=False).input_ids
    return prompt, [int(token) for token in completion]


def end_token_ids(texts: Sequence[str], tokenizer: Any) -> list[int]:
    """Return the token id of each text. The user has named these texts as the tokens that end a completion.

    Raises:
        InvalidInputError: a text is not a single token.
    """
    ends: list[int] = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise InvalidInputError(
                f"end_tokens: {text!r} is {len(ids)} tokens of this model; give texts of one token."
            )
        ends += ids
    return ends
