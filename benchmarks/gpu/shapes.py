"""Models made in process: tiny random ones of several architectures, the shapes of real ones, and a tokenizer."""

from typing import Any

import torch
from torch import nn

VOCAB = 300
_TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Name → (model type, changes to the base configuration).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "mistral-window": ("mistral", {"sliding_window": 5}),
    "phi3": ("phi3", {"sliding_window": None}),
    "gemma2": (
        "gemma2",
        {
            "sliding_window": 5,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.5,
            "query_pre_attn_scalar": 16,
        },
    ),
}
# sdpa knows no softcap: transformers runs such a model without it.
EAGER_ONLY = ("gemma2",)

_QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True}
# Name → (model type, configuration), as published.
REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3-0.6B": (
        "qwen3",
        {**_QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    ),
    "Qwen3-1.7B": (
        "qwen3",
        {**_QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    ),
    "Qwen3-4B": (
        "qwen3",
        {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    ),
    "Qwen2.5-7B": (
        "qwen2",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
    ),
}
# What stands for each of them in a dry run.
TOY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16, "num_attention_heads": 4}
TOY |= {"num_key_value_heads": 2, "vocab_size": VOCAB}


def tiny_model(architecture: str, attention: str = "sdpa", noise: float = 1.2, **changes: Any) -> nn.Module:
    """A float32 model of three layers on the CPU, with weights so large that attention is far from uniform."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, own = ARCHITECTURES[architecture]
    config = AutoConfig.for_model(model_type, **{**_TINY, **own, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def real_config(name: str, *, dry: bool, **changes: Any) -> Any:
    """The configuration of a published model; a toy of its architecture in a dry run."""
    from transformers import AutoConfig

    model_type, own = REAL[name]
    shape = {**own, **(TOY if dry else {}), "max_position_embeddings": 40960, **changes}
    return AutoConfig.for_model(model_type, pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape)


def real_model(name: str, device: torch.device, dtype: torch.dtype, *, dry: bool, **changes: Any) -> nn.Module:
    """Random weights in the shape of a published model, made on the device."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(real_config(name, dry=dry, **changes), dtype=dtype)
    return model.to(device).eval()


def byte_tokenizer(vocab_size: int) -> Any:
    """One token per byte, after <pad> <s> </s>; ids beyond are fillers, so that every id of the model decodes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<s>", "</s>", *letters]
    words += [f"<{index}>" for index in range(len(words), vocab_size)]
    inner = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
