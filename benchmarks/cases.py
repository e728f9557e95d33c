"""Models with random weights, rollouts of random tokens, and the pieces of work that several benchmarks time.

The time of a measurement depends on neither the weights nor the tokens.
"""

import functools
from collections.abc import Callable, Mapping

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from antiphase import SignalSpec, TokenBatch, token_signals
from long_rows import SHAPE

# The width of SmolLM2-135M with 4 of its 30 layers, and as many words as keep the head's share of the work.
SHALLOW = SHAPE | {"num_hidden_layers": 4, "vocab_size": 6_560}
# A model so small that every peer measures many of its tokens in a second.
SMALL = {
    "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


def llama(shape: Mapping[str, int], dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Return a Llama of this shape with random weights that need no gradient; the same at every call."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=8192))
    return model.eval().requires_grad_(False).to(dtype)


def plain(model: LlamaForCausalLM, ids: list[int]) -> None:
    """Run the body forward, and backward to the embeddings: no head, and no gradients at weights."""
    embedded = model.model.embed_tokens(torch.tensor([ids])).requires_grad_()
    model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state.sum().backward()


def random_ids(length: int, vocab: int) -> list[int]:
    """Return token ids that are the same at every call."""
    return torch.randint(3, vocab, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def rollout(ids: list[int], num_prompt: int = 1) -> TokenBatch:
    """Return one rollout. All its tokens but the prompt's are measured."""
    return TokenBatch.from_ids([ids[:num_prompt]], [ids[num_prompt:]])


def measuring(
    model: torch.nn.Module, ids: list[int], estimator: str, targets: int | None = None, num_prompt: int = 1
) -> Callable[[], object]:
    """Return the work of measuring one rollout with an estimator.

    Args:
        model: the model.
        ids: the tokens of the rollout, with its prompt.
        estimator: the estimator; `NAME@last` measures the last layer alone.
        targets: how many tokens' strengths are measured; None measures all.
        num_prompt: the number of tokens of the prompt.
    """
    name, _, layers = estimator.partition("@")
    spec = SignalSpec(estimator=name, layers=layers or "all", targets_per_rollout=targets)
    return functools.partial(token_signals, model, rollout(ids, num_prompt), spec)


def passing(model: torch.nn.Module, ids: list[int]) -> Callable[[], object]:
    """Return the work of a plain pass: through the body and back to the embeddings, no gradient at weights."""
    return functools.partial(plain, model, ids)
