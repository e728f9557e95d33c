"""What is sent to an inference server for one completion, and what its answer contains.

All servers offer `POST /v1/completions`. They differ in the fields that they take and return:

* **vLLM** takes prompts as token ids. With `return_token_ids` it returns `token_ids` and `prompt_token_ids` in each
  choice, and the id of the end token as `stop_reason`
  (https://docs.vllm.ai/en/v0.28.0/serving/online_serving/openai_compatible_server/; the class `CompletionRequest` in
  vllm/entrypoints/openai/completion/protocol.py).
* **SGLang** takes prompts as token ids, and returns the same fields since its pull request 30917 of July 2026; the end
  token is `matched_stop`. Earlier versions return only text.
* **llama.cpp** takes prompts as token ids. With `verbose` and `return_tokens` it returns the ids as
  `__verbose.tokens` (tools/server/README.md; `to_json_oaicompat` in its server-task.cpp). It samples from the nucleus
  before it applies the temperature, unless `samplers` names the order; so the order is sent.
* **transformers serve** takes only text, refuses unknown fields with status 422, and returns only text. It takes a
  whole `GenerationConfig` as JSON (transformers/cli/serving/completion.py in transformers 5.23).
* **Other services** take OpenAI's own fields
  (https://platform.openai.com/docs/api-reference/completions/create). OpenAI's own service refuses unknown fields.

The field `ignore_eos` is never sent. In vLLM it would have the wanted effect: only `stop_token_ids` end a completion.
But in SGLang it switches off `stop_token_ids` too, and in llama.cpp it makes end tokens impossible.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_client import MalformedError

Fields = Callable[[Sampling, Sequence[int]], dict[str, Any]]


@dataclass(frozen=True)
class Dialect:
    """A way to ask for a completion.

    Args:
        name: the name in messages.
        as_text: whether the prompt is sent as text; otherwise it is sent as token ids.
        fields: function that makes the request's sampling fields from the sampling options and the end tokens.
    """

    name: str
    as_text: bool
    fields: Fields

    def body(
        self, model: str, prompt: str | Sequence[int], sampling: Sampling, ends: Sequence[int], seed: int
    ) -> dict[str, Any]:
        """Return the JSON object that is sent to ask for one completion.

        Args:
            model: the name of the model on the server.
            prompt: the text or the token ids of the prompt.
            sampling: the sampling options.
            ends: the ids of the tokens that end a completion.
            seed: the seed of the rollout. Its lower 31 bits are sent, since some servers take no more.
        """
        shown = prompt if isinstance(prompt, str) else [int(token) for token in prompt]
        return {"model": model, "prompt": shown, "seed": seed % 2**31, **self.fields(sampling, ends)}


def _openai_fields(sampling: Sampling, ends: Sequence[int]) -> dict[str, Any]:
    """Return the sampling fields of OpenAI's own API. It has no fields for top-k, further penalties and end tokens."""
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
        "stream": False,
    }


def _extended_fields(sampling: Sampling, ends: Sequence[int]) -> dict[str, Any]:
    """Return the sampling fields of OpenAI's API, and those that vLLM, SGLang and llama.cpp add to it.

    Each of these three servers ignores the fields that it does not know.
    """
    return {
        **_openai_fields(sampling, ends),
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(ends),
        "skip_special_tokens": False,
        "return_token_ids": True,
        # These are llama.cpp's.
        "repeat_penalty": 1.0,
        "samplers": ["temperature", "top_p"],
        "mirostat": 0,
        "return_tokens": True,
        "verbose": True,
    }


def _transformers_fields(sampling: Sampling, ends: Sequence[int]) -> dict[str, Any]:
    """Return the sampling fields of `transformers serve`.

    They contain a generation config that replaces the model's own defaults.
    """
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    config = {
        "max_new_tokens": sampling.max_new_tokens,
        "eos_token_id": list(ends) or None,
        "pad_token_id": ends[0] if ends else 0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "num_beams": 1,
        **(drawn if sampling.temperature > 0 else {"do_sample": False}),
    }
    return {"max_tokens": sampling.max_new_tokens, "generation_config": json.dumps(config)}


# The ways in the order in which they are tried.
DIALECTS = (
    Dialect("token ids, with the fields of vLLM, SGLang and llama.cpp", False, _extended_fields),
    Dialect("token ids, with OpenAI's fields", False, _openai_fields),
    Dialect("text, with a generation config of transformers", True, _transformers_fields),
    Dialect("text, with OpenAI's fields", True, _openai_fields),
)


@dataclass(frozen=True)
class Answer:
    """The answer of a server with one completion.

    Args:
        text: the text of the completion.
        ids: the token ids of the completion; None if the server returned none.
        finish: the reason why the completion ended, in the server's word.
        end: the id of the token that ended the completion; None if the server did not name it.
        prompt_ids: the token ids of the prompt as the server read it; None if it returned none.
        num_prompt: the number of tokens of the prompt; None if the server did not count them.
        num_completion: the number of tokens of the completion; None if the server did not count them.
        model: the name of the model that answered; None if the server did not name it.
    """

    text: str
    ids: tuple[int, ...] | None
    finish: str | None
    end: int | None
    prompt_ids: tuple[int, ...] | None
    num_prompt: int | None
    num_completion: int | None
    model: str | None


def read_answer(payload: Any) -> Answer:
    """Return the completion that the JSON value of a server's answer contains.

    Raises:
        MalformedError: the value has no choice, more than one, or a choice of another form.
    """
    choices = payload.get("choices") if isinstance(payload, Mapping) else None
    if not isinstance(choices, list) or len(choices) != 1:
        found = len(choices) if isinstance(choices, list) else "no list of them"
        raise MalformedError(f"the answer should contain 1 choice, but contains {found}.")
    choice = choices[0]
    if not isinstance(choice, Mapping) or not isinstance(choice.get("text"), str):
        raise MalformedError("the choice in the answer has no text.")
    usage, verbose = (_mapping(payload.get(name)) for name in ("usage", "__verbose"))
    ends = (_count(choice.get(name)) for name in ("stop_reason", "matched_stop"))
    finish, model = choice.get("finish_reason"), payload.get("model")
    return Answer(
        text=choice["text"],
        ids=_ids(choice.get("token_ids"), verbose.get("tokens")),
        finish=finish if isinstance(finish, str) else None,
        end=next((end for end in ends if end is not None), None),
        prompt_ids=_ids(choice.get("prompt_token_ids"), payload.get("prompt_token_ids")),
        num_prompt=_count(usage.get("prompt_tokens")),
        num_completion=_count(usage.get("completion_tokens")),
        model=model if isinstance(model, str) else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _ids(*values: Any) -> tuple[int, ...] | None:
    """Return the first of the values that is a list of token ids; None if there is none.

    An empty list does not count, since llama.cpp returns one if it was not asked for ids.
    """
    for value in values:
        if isinstance(value, list) and value:
            if any(_count(token) is None for token in value):
                raise MalformedError("a list of token ids in the answer contains something else.")
            return tuple(value)
    return None
