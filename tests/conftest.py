"""Shared by all tests: shapes checked at run time, tiny random models built in process, and true float64."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# Every jaxtyping annotation of the package is checked in every call that a test makes.
_hook = install_import_hook("antiphase", "typecheck.checked")
_hook.__enter__()

import contextlib
import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, settings
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

# Fixtures that the modules of tests/report share.
pytest_plugins = ["page_fixtures", "report_fixtures"]

settings.register_profile(
    "antiphase", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("antiphase")
# Programs that tests launch in processes of their own. Importing them would change this process.
collect_ignore_glob = ["launched/*.py", "verl/engine_pass.py", "verl/cpu_verl.py"]
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """Take what is there already, such as imported packages, out of garbage collections.

    Accelerate collects in every training; a collection of the whole heap of these tests takes a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def unchecked():
    """As a user has it: no run-time checks of shapes and types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises `KeyboardInterrupt`, also where the tests were started with SIGINT ignored, as `nohup` may do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


VOCAB = 300
_BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Name → (model type, changes to the base configuration).
ARCHITECTURES = {
    "llama-gqa": ("llama", {}),
    "llama-mha": ("llama", {"num_key_value_heads": 4, "attention_bias": True}),
    "llama-mqa-tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral-window": ("mistral", {"sliding_window": 5}),
    "gemma2": (
        "gemma2",
        {
            "sliding_window": 5,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.5,
            "query_pre_attn_scalar": 6,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "sliding_window": 5,
            "query_pre_attn_scalar": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi3": ("phi3", {"sliding_window": None}),
    "gpt2": ("gpt2", {"n_embd": 24, "n_head": 4, "n_layer": 3, "n_inner": 40, "n_positions": 1024}),
    "gpt-neox": ("gpt_neox", {"rotary_pct": 0.5}),
    "granite": ("granite", {"logits_scaling": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7}),
    "cohere": ("cohere", {"logit_scale": 0.4}),
    "bitnet": ("bitnet", {}),  # a norm between the attention and the O projection
    "qwen3-next": (  # a gate between the attention and the O projection
        "qwen3_next",
        {
            "layer_types": ["full_attention"] * 3,
            "mlp_only_layers": [0, 1, 2],
            "num_experts": 2,
            "num_experts_per_tok": 1,
        },
    ),
    "opt": ("opt", {"ffn_dim": 40, "word_embed_proj_dim": 24, "dropout": 0.0}),
}


def tiny_model(
    architecture: str = "llama-gqa", dtype: torch.dtype = torch.float32, noise: float = 1.2, **changes
) -> PreTrainedModel:
    """A random model of three layers, by default with weights so large that attention is far from uniform."""
    model_type, own = ARCHITECTURES[architecture]
    shared = {} if model_type == "gpt2" else _BASE
    special = {key: _BASE[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    config = AutoConfig.for_model(model_type, **{**special, **shared, **own, **changes})
    set_seed(0)
    return shaken(AutoModelForCausalLM.from_config(config, dtype=torch.float32), noise).to(dtype)


def shaken(model: PreTrainedModel, noise: float) -> PreTrainedModel:
    """The model in evaluation mode, with normal noise on its weights so that attention is far from uniform."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


@contextlib.contextmanager
def pure_double() -> Iterator[None]:
    """Hugging Face's RMSNorm, RoPE and eager softmax drop float64 to float32; keep float64 throughout."""
    to, to_float, softmax = torch.Tensor.to, torch.Tensor.float, F.softmax

    def keep_to(self, *args, **kwargs):
        narrows = torch.float32 in args or kwargs.get("dtype") is torch.float32
        return self if self.dtype == torch.float64 and narrows else to(self, *args, **kwargs)

    def keep_float(self, *args, **kwargs):
        if self.dtype == torch.float64:
            return self
        # RoPE of older transformers multiplies frequencies by whole positions that it makes float32.
        return to_float(self, *args, **kwargs) if self.is_floating_point() else self.double()

    def keep_softmax(x, *args, **kwargs):
        if x.dtype == torch.float64:
            kwargs.pop("dtype", None)
        return softmax(x, *args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(torch.Tensor, "to", keep_to)
    patch.setattr(torch.Tensor, "float", keep_float)
    patch.setattr(F, "softmax", keep_softmax)
    try:
        yield
    finally:
        patch.undo()


def byte_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """One token per byte, after the special tokens <pad> <s> </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama with a byte tokenizer: what `antiphase probe DIR` takes."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_model().save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path
