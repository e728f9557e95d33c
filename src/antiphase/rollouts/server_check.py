"""Checks, before rollouts are paid for, that a server has the right model and the tokenizer of the measured model.

A few cheap requests are sent. At the first check that fails, the run ends with an error that says what differs. These
are the checks:

1. `/models` lists the model that is asked for.
2. A short completion is asked for. The forms of request in `server_protocol.DIALECTS` are tried one after another,
   until the server accepts a request. A server of a known kind is only asked in the first form.
3. The server must have read as many prompt tokens as were sent. If it returns their ids, these must be the same ids as
   those that were sent.
4. The tokenizer is compared: by `/tokenize` if the server has it (vLLM, SGLang and llama.cpp do), else by the number
   of tokens that the server counts in a text.
5. If the server returns token ids, they must decode to the text that it returned.

The server's weights cannot be checked. So the server's model must have the same name as the measured model, or the
user must have given the name of the server's model.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean
from antiphase.rollouts.sampling_spec import Sampling
from antiphase.rollouts.server_client import Client, ExhaustedError, MalformedError, RefusedError
from antiphase.rollouts.server_completion import first_difference, plain_ids, rollout_of
from antiphase.rollouts.server_options import ServerOptions
from antiphase.rollouts.server_protocol import DIALECTS, Answer, Dialect, read_answer

# A text with digits, signs, accents and several scripts, which other tokenizers cut in other places.
TRIAL_TEXT = "Café №7: 12345 + 67.89 = ?\n\tПривет, 你好 🙂 def f(x): return x**2"
TRIAL_SAMPLING = Sampling(max_new_tokens=16)
# What these servers write as the owner of their models in `/models`. Their lists contain all models that they offer.
OWNERS = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}
# Statuses with which servers refuse a field, a kind of prompt or an endpoint that they do not have.
_NOT_THIS_WAY = frozenset({400, 404, 405, 415, 422, 501})
# Statuses with which servers answer if they have no list of their models.
_NO_LIST = frozenset({404, 405, 500, 501})


@dataclass(frozen=True)
class CheckedServer:
    """What the check found out about a server.

    Args:
        kind: `vLLM`, `SGLang` or `llama.cpp`; `unknown` for any other server.
        dialect: the way in which the server is asked.
        returns_ids: whether the server returns the token ids of completions.
    """

    kind: str
    dialect: Dialect
    returns_ids: bool

    def facts(self, model: str) -> dict[str, str]:
        """Return what a run stores about the server, as values that JSON can hold. `model` is the model's name."""
        return {
            "kind": self.kind,
            "model": model,
            "prompts": "text" if self.dialect.as_text else "ids",
            "completions": "ids" if self.returns_ids else "text",
        }


async def check_server(options: ServerOptions, tokenizer: Any, ends: Sequence[int], vocabulary: int) -> CheckedServer:
    """Check that a server has the measured model and its tokenizer, and find out which form of request it takes.

    Args:
        options: the server, and how it is asked.
        tokenizer: the tokenizer of the measured model.
        ends: the ids of the tokens that end a completion.
        vocabulary: the number of tokens that the measured model knows.

    Raises:
        InvalidInputError: the server lacks the model, has another tokenizer, or takes no known form of request.
        ServerError: the server cannot be reached, or does not answer.
    """
    async with Client(options, asyncio.Event()) as client:
        owners = await _listed(client, options)
        kind = next((OWNERS[owner] for owner in owners.values() if owner in OWNERS), "unknown")
        if options.model not in owners and kind != "unknown":
            raise InvalidInputError(_lacks(options, owners))
        ids = [int(token) for token in tokenizer(TRIAL_TEXT).input_ids]
        # A known server takes the first way. Another way would leave the model's own top-k in effect without a word.
        dialects = DIALECTS if kind == "unknown" else DIALECTS[:1]
        dialect, answer = await _trial(client, options, ids, ends, owners, dialects)
        if options.model not in owners and not _answers(answer, options.model):
            raise InvalidInputError(_lacks(options, owners, answered_by=answer.model))
        check_prompt(answer, ids)
        await _check_tokenizer(client, options, tokenizer, dialect, answer)
        if answer.ids is not None:
            rollout_of(answer, tokenizer, ends, TRIAL_SAMPLING, vocabulary)
            _check_text(answer, answer.ids, tokenizer, ids)
    return CheckedServer(kind, dialect, answer.ids is not None)


async def _listed(client: Client, options: ServerOptions) -> dict[str, str | None]:
    """Return a mapping from the name of each model that the server lists to the model's owner.

    The mapping is empty if the server has no list of models. A server has no list if it answers with the status 404,
    405 or 501. The status 500 has the same meaning here, because `transformers serve` answers with it on a machine
    without a cache of the hub. Any other failure is an error. Otherwise a busy vLLM would be taken for an unknown
    server, and asked with fewer options.

    Raises:
        RefusedError: the server refuses the request with another status.
        ExhaustedError: all attempts failed, and the last one with another status.
    """

    def read(payload: Any) -> dict[str, str | None]:
        data = payload.get("data") if isinstance(payload, Mapping) else None
        models = data if isinstance(data, list) else []
        return {str(one.get("id")): one.get("owned_by") for one in models if isinstance(one, Mapping)}

    try:
        return await client.ask(f"{options.base_url}/models", None, read, attempts=4)
    except (RefusedError, ExhaustedError) as error:
        if error.status in _NO_LIST:
            return {}
        raise


def _lacks(options: ServerOptions, owners: Mapping[str, str | None], answered_by: str | None = None) -> str:
    """Return the error message for a server that does not offer the model that is asked for.

    Args:
        options: the server, and the model that is asked for.
        owners: the owner of each model that the server lists.
        answered_by: the model that answered in place of the one that was asked for; None if this is not known.
    """
    names = list(owners)
    shown = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "") if names else "no model"
    answered = "" if answered_by is None else f" A request for {options.model!r} was answered by {answered_by!r}."
    return (
        f"the server at {options.base_url} does not offer the model {options.model!r}. The server lists {shown}."
        f"{did_you_mean(options.model, names)}{answered} If the server offers the measured model under another name, "
        "give that name: --served-model NAME."
    )


def _answers(answer: Answer, model: str) -> bool:
    """Return whether a model of this name answered. `transformers serve` adds an @ and a revision to the name."""
    return answer.model is not None and answer.model.partition("@")[0] == model


async def _trial(
    client: Client,
    options: ServerOptions,
    ids: Sequence[int],
    ends: Sequence[int],
    owners: Mapping[str, str | None],
    dialects: Sequence[Dialect],
) -> tuple[Dialect, Answer]:
    """Ask for a short completion in one way after another. Return the first way that works, and the answer."""
    url, refusals = f"{options.base_url}/completions", []
    for dialect in dialects:
        prompt = TRIAL_TEXT if dialect.as_text else ids
        body = dialect.body(options.model, prompt, TRIAL_SAMPLING, ends, 0)
        try:
            return dialect, await client.ask(url, body, read_answer)
        except RefusedError as error:
            if error.status not in _NOT_THIS_WAY:
                raise
            refusals.append((dialect, error))
    if owners and options.model not in owners:
        raise InvalidInputError(f"{_lacks(options, owners)} ({refusals[0][1]})")
    if all(error.status in (404, 405) for _, error in refusals):
        raise InvalidInputError(
            f"{refusals[0][1]} If the server offers only chats, antiphase cannot use it. Such a server makes the "
            "prompt by its own chat template, so antiphase cannot know the token ids of the prompt."
        )
    shown = " ".join(f"With {dialect.name}: {error}" for dialect, error in refusals)
    raise InvalidInputError(f"the server accepts no form of request for a completion. {shown}")


def check_prompt(answer: Answer, ids: Sequence[int]) -> None:
    """Raise InvalidInputError if the server read other prompt tokens than those that were sent.

    Args:
        answer: the server's answer.
        ids: the token ids of the prompt.
    """
    if answer.prompt_ids is not None and answer.prompt_ids != tuple(ids):
        raise InvalidInputError(
            f"the server read another prompt than antiphase sent: {first_difference(ids, answer.prompt_ids)}."
        )
    if answer.num_prompt is not None and answer.num_prompt != len(ids):
        raise InvalidInputError(
            f"the server read {answer.num_prompt} prompt tokens, but the prompt has {len(ids)}: the server has "
            "another tokenizer, or puts a template or a special token around the prompt."
        )


async def _check_tokenizer(
    client: Client, options: ServerOptions, tokenizer: Any, dialect: Dialect, answer: Answer
) -> None:
    """Raise an error if the server's tokenizer is not that of the measured model, or if this cannot be found out."""
    own = plain_ids(tokenizer, TRIAL_TEXT)
    found = await _tokenised(client, options)
    if found is not None:
        if found != own:
            raise InvalidInputError(
                f"the server's tokenizer is not that of the measured model: of the text {TRIAL_TEXT!r}, "
                f"{first_difference(own, found)}."
            )
        return
    if dialect.as_text:
        if answer.num_prompt is None:
            raise InvalidInputError(
                "the server takes only text and does not count the tokens of a prompt, so it cannot be known whether "
                "it reads the same tokens."
            )
        return
    counts = {len(own), len(tokenizer(TRIAL_TEXT).input_ids)}
    body = dialect.body(options.model, TRIAL_TEXT, Sampling(max_new_tokens=1), (), 0)
    counted = (await client.ask(f"{options.base_url}/completions", body, read_answer)).num_prompt
    if counted is None and answer.ids is None:
        raise InvalidInputError(
            "the server neither returns token ids nor counts the tokens of a prompt, so it cannot be known whether it "
            "has the tokenizer of the measured model."
        )
    if counted is not None and counted not in counts:
        raise InvalidInputError(
            f"the server's tokenizer is not that of the measured model: the text {TRIAL_TEXT!r} has {counted} tokens "
            f"by the server and {min(counts)} by the measured model."
        )


async def _tokenised(client: Client, options: ServerOptions) -> list[int] | None:
    """Return the token ids into which the server tokenises the trial text; None if the server does not tell."""

    def read(payload: Any) -> list[int]:
        tokens = payload.get("tokens") if isinstance(payload, Mapping) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise MalformedError("the answer of /tokenize contains no list of token ids.")
        return tokens

    # vLLM and SGLang read `prompt`, llama.cpp reads `content`.
    body = {"model": options.model, "prompt": TRIAL_TEXT, "add_special_tokens": False}
    body |= {"content": TRIAL_TEXT, "add_special": False, "parse_special": True}
    for place in dict.fromkeys((options.root, options.base_url)):
        try:
            return await client.ask(f"{place}/tokenize", body, read, attempts=2)
        except (RefusedError, ExhaustedError):
            continue
    return None


def _check_text(answer: Answer, found: Sequence[int], tokenizer: Any, prompt: Sequence[int]) -> None:
    """Raise InvalidInputError if the server's token ids of the trial completion do not decode to the server's text.

    White space is not compared, since many tokenizers drop the space before the first word of a text. A character that
    is cut at the end, and special tokens, need not be in the server's text.
    """

    def bare(text: str) -> str:
        return "".join(text.replace("�", "").split())

    whole = [str(tokenizer.decode(list(part), skip_special_tokens=False)) for part in ([*prompt, *found], prompt)]
    decoded = [str(tokenizer.decode(list(found), skip_special_tokens=skip)) for skip in (False, True)]
    decoded += [str(tokenizer.decode(list(found[:-1]), skip_special_tokens=False)), whole[0].removeprefix(whole[1])]
    if bare(answer.text) not in map(bare, decoded):
        raise InvalidInputError(
            f"the token ids that the server returned decode to {decoded[0]!r} here, but the server's text is "
            f"{answer.text!r}: the server has another tokenizer."
        )
