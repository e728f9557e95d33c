"""Tiny random models of the families of docs/models.md, what each estimator does with them, and the table made of it.

Run as a program, it prints the tables of docs/models.md:

    PYTHONPATH=src:tests python tests/model_families.py
"""

import functools
import re
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, set_seed

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import find_layers, left_out
from antiphase.models.fact_notes import ranges
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch, TokenSignals
from conftest import _BASE, ARCHITECTURES, VOCAB, pure_double, shaken

_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 6,
}
_MAMBA = {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SHARED = {
    "num_hidden_layers": 5,
    "num_kv_shared_layers": 2,
    "layer_types": [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ],
    "sliding_window": 5,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
}
_MLA = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
}
_MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
# Name in the table → (model type, changes to the base configuration of the tests).
FAMILIES = {
    "Gemma 3n": (
        "gemma3n_text",
        {**_SHARED, "laurel_rank": 4, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0, 0.0]},
    ),
    "Gemma 4, small (reused keys and values)": (
        "gemma4_text",
        {**_SHARED, "global_head_dim": 8, "num_global_key_value_heads": 1},
    ),
    "Gemma 4, large (`k_eq_v`)": (
        "gemma4_text",
        {
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "sliding_window": 5,
            "hidden_size_per_layer_input": 0,
            "global_head_dim": 8,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
        },
    ),
    "Qwen3.5": ("qwen3_5_text", {"num_hidden_layers": 4, "layer_types": _MIXED, **_DELTA}),
    "Qwen4-Exp": (
        "qwen4_exp_text",
        {
            "num_hidden_layers": 4,
            "layer_types": _MIXED,
            "shared_expert_intermediate_size": 16,
            "hc_count": 2,
            "hc_lowrank": 4,
            # Each query attends to four tokens of its choice, and to the tokens of the last incomplete block.
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 6,
            "indexer_budget": 4,
            "indexer_compress_ratio": 2,
            "ple_layer_ids": [1],
            "ngram_vocab_size_base": 50,
            "heads_per_ngram": 2,
            **_DELTA,
            **_EXPERTS,
        },
    ),
    "Qwen3-Next": (
        "qwen3_next",
        {
            "num_hidden_layers": 4,
            "layer_types": _MIXED,
            "shared_expert_intermediate_size": 16,
            **_DELTA,
            **_EXPERTS,
        },
    ),
    "Falcon-H1": (
        "falcon_h1",
        {**_MAMBA, "mamba_d_ssm": 24, "mamba_d_head": 6, "key_multiplier": 0.4, "lm_head_multiplier": 0.5},
    ),
    "Granite 4 hybrid": (
        "granitemoehybrid",
        {
            **_MAMBA,
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
            "mamba_d_head": 12,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 40,
        },
    ),
    "LFM2": (
        "lfm2",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
    ),
    "Nemotron-H": (
        "nemotron_h",
        {
            "num_hidden_layers": 5,
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 6,
            "n_groups": 1,
            "ssm_state_size": 8,
            "chunk_size": 16,
        },
    ),
    "Zamba2": (
        "zamba2",
        {
            "num_hidden_layers": 6,
            "layers_block_type": ["linear_attention", "hybrid"] * 3,
            "num_mem_blocks": 2,
            "num_key_value_heads": 4,
            "n_mamba_heads": 4,
            "mamba_d_state": 8,
            "chunk_size": 16,
            "use_mem_rope": True,
            "tie_word_embeddings": True,
        },
    ),
    "OLMo hybrid": ("olmo_hybrid", {"num_hidden_layers": 4, "layer_types": _MIXED, **_DELTA}),
    "Kimi Linear": ("kimi_linear", {"num_hidden_layers": 4, "layer_types": _MIXED, **_MLA, "q_lora_rank": None}),
    "DeepSeek-V3": (
        "deepseek_v3",
        {
            **_MLA,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "SmolLM3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 2}),
    "Qwen3-MoE": ("qwen3_moe", _EXPERTS),
    "Mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "OLMoE": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "DiffLlama": ("diffllama", {}),
    "Doge": ("doge", {"keep_window_size": 4}),
    "gpt-oss": (
        "gpt_oss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
}
DEFINITION = {"own": "oracle-own", "last": "oracle", "full": "oracle"}
# A part of an error → how the table says it.
_REASONS = {
    r"outside softmax attention": "positions also mix outside attention",
    r"attends with 's_aux'": "attention sinks",
    r"attends twice": "two attentions in one layer",
    r"computes its attention mask": "a mask with a gradient",
    r"layer \d+ of \d+ has no softmax attention": "the last layer has no softmax attention",
    r"have the same attention weights": "several layers share one attention",
    r"no (attention )?projections that antiphase knows": "its projections follow no known layout",
}


def family_model(family: str, dtype: torch.dtype = torch.float32, noise: float = 1.2, **changes) -> PreTrainedModel:
    """A tiny random model of a family. Its experts run by the plain loop, which also works in float64."""
    model_type, own = FAMILIES[family]
    config = AutoConfig.for_model(model_type, **{**_BASE, **own, **changes})
    set_seed(0)
    model = shaken(AutoModelForCausalLM.from_config(config, dtype=torch.float32), noise).to(dtype)
    if any("Experts" in type(module).__name__ for module in model.modules()):
        model.set_experts_implementation("eager")
    return model


def family_batch(side: str = "right") -> TokenBatch:
    generator = torch.Generator().manual_seed(3)
    rows = [[torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in pair] for pair in ((5, 6), (2, 8))]
    return TokenBatch.from_ids(*zip(*rows, strict=True), padding_side=side, pad_token_id=2)


@dataclass(frozen=True)
class Finding:
    """What antiphase does with a family.

    Args:
        measured: for each estimator, its signals and those of its definition; absent where it is refused.
        refused: for each estimator, the message of its refusal; absent where it measures.
        layers: the numbers of the attention layers; None if the model is refused.
        num_layers: the number of all layers of the decoder.
        left_out: what a measurement of all layers leaves out.
    """

    measured: dict[str, tuple[TokenSignals, TokenSignals]]
    refused: dict[str, str]
    layers: tuple[int, ...] | None
    num_layers: int
    left_out: dict | None


@functools.cache
def finding(family: str) -> Finding:
    """Measure a family in float64 with every estimator and with its definition."""
    measured, refused, batch = {}, {}, family_batch()
    with pure_double():
        model = family_model(family, torch.float64)
        for estimator, definition in DEFINITION.items():
            layers = "last" if estimator == "last" else "all"
            try:
                fast = token_signals(model, batch, SignalSpec(estimator=estimator, layers=layers))
            except UnsupportedModelError as error:
                refused[estimator] = str(error)
                continue
            measured[estimator] = fast, token_signals(model, batch, SignalSpec(estimator=definition, layers=layers))
        try:
            found, missing = find_layers(model), left_out(model)
        except UnsupportedModelError:
            return Finding(measured, refused, None, model.config.get_text_config().num_hidden_layers, None)
    return Finding(measured, refused, tuple(x.index for x in found.attention), found.num_layers, missing)


def row(family: str) -> str:
    """The line of a family in the table of docs/models.md."""
    found = finding(family)
    cells = []
    for estimator in DEFINITION:
        message = found.refused.get(estimator)
        reason = message and next(text for part, text in _REASONS.items() if re.search(part, message))
        cells.append("measured" if message is None else f"refused: {reason}")
    layers = "none" if found.layers is None else f"{ranges(found.layers)} of {found.num_layers}"
    missing = found.left_out or {"without_attention": {}, "without_projection": {}}
    left = [f"{kind}: {ranges(numbers)}" for kind, numbers in missing["without_attention"].items()]
    left += [f"{name} of {ranges(numbers)}" for name, numbers in missing["without_projection"].items()]
    return " | ".join([f"| {family}", f"`{FAMILIES[family][0]}`", layers, "; ".join(left) or "–", *cells]) + " |"


def table() -> list[str]:
    """The table of docs/models.md."""
    head = ["family", "model type", "layers measured in the test", "left out", *(f"`{name}`" for name in DEFINITION)]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(row, FAMILIES)]


def plain() -> str:
    """The model types of which estimators of all layers leave nothing out, as docs/models.md lists them."""
    return ", ".join(dict.fromkeys(f"`{kind}`" for kind, _ in ARCHITECTURES.values() if kind != "qwen3_next"))


if __name__ == "__main__":
    print("\n".join([plain(), "", *table()]))
