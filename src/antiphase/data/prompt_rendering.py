"""From a prompt to the token ids that a model sees: chat template where there is one, plain text elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.data.given_rollouts import GivenRollout
from antiphase.data.prompts import Messages
from antiphase.errors import InvalidInputError

PLAIN_TEMPLATE = "Question: {prompt}\nAnswer:"


@dataclass(frozen=True)
class PromptFormat:
    """How prompts are wrapped.

    Args:
        template: text with `{prompt}` in it, put around every plain-text prompt; None is `{prompt}` alone under a chat
            template and `Question: {prompt}` / `Answer:` without one.
        system_prompt: put before the chat (or before the text, where there is no chat template).
        chat_template: apply the tokenizer's chat template where it has one.
    """

    template: str | None = None
    system_prompt: str | None = None
    chat_template: bool = True

    def __post_init__(self) -> None:
        if self.template is not None and "{prompt}" not in self.template:
            raise InvalidInputError(f"the prompt template must contain {{prompt}}; got {self.template!r}.")

    def encode(self, tokenizer: Any, content: str | Messages, place: str) -> list[int]:
        """Token ids of the prompt, ready to be continued.

        Raises:
            InvalidInputError: a chat for a model without a chat template, or nothing is left of the prompt.
        """
        if self.chat_template and tokenizer.chat_template is not None:
            ids = self._chat_ids(tokenizer, self._messages(content, place), place)
        else:
            text = self._text(content, place)
            # A prompt that was rendered before brings its BOS along; a second one would shift every number.
            rendered = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
            ids = tokenizer(text, add_special_tokens=not rendered).input_ids
        if not ids:
            raise InvalidInputError(f"{place}: the prompt has no tokens; nothing predicts the first completion token.")
        return [int(token) for token in ids]

    @staticmethod
    def _chat_ids(tokenizer: Any, messages: Messages, place: str) -> Any:
        from jinja2 import TemplateError

        try:
            return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise InvalidInputError(
                f"{place}: the model's chat template refuses these messages ({error}). Leave out the system prompt, "
                "or use --no-chat-template."
            ) from error

    def _messages(self, content: str | Messages, place: str) -> Messages:
        if isinstance(content, list):
            messages = content
        else:
            messages = [{"role": "user", "content": (self.template or "{prompt}").replace("{prompt}", content)}]
        if self.system_prompt is None:
            return messages
        if messages[0]["role"] == "system":
            raise InvalidInputError(f"{place}: the chat has a system message already; leave out the system prompt.")
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def _text(self, content: str | Messages, place: str) -> str:
        if isinstance(content, list):
            raise InvalidInputError(f"{place}: the prompt is a chat, but the tokenizer has no chat template in use.")
        text = (self.template or PLAIN_TEMPLATE).replace("{prompt}", content)
        return text if self.system_prompt is None else f"{self.system_prompt}\n\n{text}"


def encode_rollout(tokenizer: Any, rollout: GivenRollout, prompt_format: PromptFormat) -> tuple[list[int], list[int]]:
    """(prompt ids, completion ids) of a given rollout; text is tokenised, the completion without special tokens."""
    if rollout.prompt_ids is not None and rollout.completion_ids is not None:
        return list(rollout.prompt_ids), list(rollout.completion_ids)
    assert rollout.prompt is not None
    assert rollout.completion is not None
    prompt = prompt_format.encode(tokenizer, rollout.prompt, rollout.place)
    completion = tokenizer(rollout.completion, add_special_tokens=False).input_ids
    return prompt, [int(token) for token in completion]


def end_token_ids(texts: Sequence[str], tokenizer: Any) -> list[int]:
    """Ids of texts of one token each that end a completion.

    Raises:
        InvalidInputError: one is not a single token.
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
