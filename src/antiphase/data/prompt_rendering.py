"""Turn a prompt into the token ids that a model sees, with the chat template if there is one, else as plain text."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphase.data.chat_template import ChatOptions, chat_token_ids, folded, is_rendered
from antiphase.data.given_rollouts import GivenRollout
from antiphase.data.prompts import Messages
from antiphase.errors import InvalidInputError


@dataclass(frozen=True)
class PromptFormat:
    """How prompts are wrapped. Probe, evaluation, training and held-out problems all use this.

    Args:
        template: a text with `{prompt}` in it, which is put around every plain-text prompt; None leaves the prompt as
            it is.
        system_prompt: the system message of the chat; without a chat template, a text before the prompt, followed by a
            blank line.
        chat_template: whether the tokenizer's chat template is applied, if it has one.
        chat: how the chat template is called.

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
        """Whether prompts for this tokenizer become chats."""
        return self.chat_template and tokenizer.chat_template is not None

    def wrapped(self, content: str | Messages, place: str, *, chat: bool) -> str | Messages:
        """The prompt with template and system prompt: as messages if `chat`, else as text.

        Args:
            content: a text, or a chat, around which no template is put.
            place: where the prompt comes from, for error messages.
            chat: whether a chat template will be applied.

        Raises:
            InvalidInputError: the prompt is a chat and there is no chat template, or there is a second system message.
        """
        if isinstance(content, str):
            content = content if self.template is None else self.template.replace("{prompt}", content)
            if not chat:
                return content if self.system_prompt is None else f"{self.system_prompt}\n\n{content}"
            content = [{"role": "user", "content": content}]
        elif not chat:
            raise InvalidInputError(f"{place}: the prompt is a chat, but the tokenizer has no chat template in use.")
        if self.system_prompt is not None:
            if content[0]["role"] == "system":
                raise InvalidInputError(
                    f"{place}: the chat has a system message already; leave out the system prompt."
                )
            content = [{"role": "system", "content": self.system_prompt}, *content]
        return folded(content) if self.chat.fold_system else content

    def is_rendered(self, content: str | Messages, tokenizer: Any, place: str) -> bool:
        """Whether the prompt is a text that the chat template has rendered already, so that it stays as it is.

        Raises:
            InvalidInputError: the text is rendered, and there is something that should go into it.
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
                    f"{what} cannot be put. Leave this option out, or give the prompt before it was rendered."
                )
        return True

    def encode(self, tokenizer: Any, content: str | Messages, place: str) -> list[int]:
        """The token ids of the prompt, which a completion can continue.

        Raises:
            InvalidInputError: see `wrapped` and `prompt_token_ids`.
        """
        if self.is_rendered(content, tokenizer, place):
            return prompt_token_ids(tokenizer, content, place)
        wrapped = self.wrapped(content, place, chat=self.makes_chats(tokenizer))
        return prompt_token_ids(tokenizer, wrapped, place, self.chat)


def prompt_token_ids(
    tokenizer: Any, wrapped: str | Messages, place: str, chat: ChatOptions | None = None
) -> list[int]:
    """The token ids of a wrapped prompt. A chat goes through the tokenizer's chat template; a text stays as it is.

    Args:
        tokenizer: the model's tokenizer.
        wrapped: the prompt as `PromptFormat.wrapped` returns it.
        place: where the prompt comes from, for error messages.
        chat: how the chat template is called; None is a `ChatOptions()`.

    Raises:
        InvalidInputError: see `chat_token_ids`; or the prompt has no tokens.
    """
    if isinstance(wrapped, str):
        # A prompt that was rendered before already has a BOS. A second one would change every number.
        rendered = tokenizer.bos_token is not None and wrapped.startswith(tokenizer.bos_token)
        ids = tokenizer(wrapped, add_special_tokens=not rendered).input_ids
    else:
        ids = chat_token_ids(tokenizer, wrapped, place, chat or ChatOptions())
    if not ids:
        raise InvalidInputError(f"{place}: the prompt has no tokens; nothing predicts the first completion token.")
    return [int(token) for token in ids]


def prompts_digest(prompts: Iterable[Sequence[int]]) -> str:
    """The SHA-256 digest of the token ids of prompts, in their order."""
    digest = hashlib.sha256()
    for ids in prompts:
        digest.update(f"{[int(token) for token in ids]}\n".encode())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """The SHA-256 digest of a tokenizer's vocabulary and chat template."""
    known = (sorted(tokenizer.get_vocab().items()), str(tokenizer.chat_template))
    return hashlib.sha256(repr(known).encode("utf-8", "surrogatepass")).hexdigest()


def encode_rollout(tokenizer: Any, rollout: GivenRollout, prompt_format: PromptFormat) -> tuple[list[int], list[int]]:
    """(prompt ids, completion ids) of a given rollout. A completion text is tokenised without special tokens."""
    if rollout.prompt_ids is not None and rollout.completion_ids is not None:
        return list(rollout.prompt_ids), list(rollout.completion_ids)
    assert rollout.prompt is not None
    assert rollout.completion is not None
    prompt = prompt_format.encode(tokenizer, rollout.prompt, rollout.place)
    completion = tokenizer(rollout.completion, add_special_tokens=False).input_ids
    return prompt, [int(token) for token in completion]


def end_token_ids(texts: Sequence[str], tokenizer: Any) -> list[int]:
    """The ids of tokens that end a completion, from texts of one token each.

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
