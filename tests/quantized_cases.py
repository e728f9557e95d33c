"""Tiny checkpoints in the formats of quantised weights, each beside a model of its dequantised weights."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from conftest import byte_tokenizer, tiny_model

BLOCK, GROUP = 16, 32
# The order in which AWQ packs eight numbers of 4 bits into one of 32.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
LARGE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}


def save_float(path):
    """A model that is large enough for blocks of 32 and 64 weights."""
    tiny_model(**LARGE).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def configured(base, path, quantization):
    """A copy of a checkpoint that says how it is quantised."""
    shutil.copytree(base, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return path


def _write(base, folder, quantization, quantize):
    """Save a quantised copy and its dequantised twin. `quantize` gives the stored tensors and the float weight."""
    path, twin = configured(base, folder / "quantised", quantization), folder / "twin"
    shutil.copytree(base, twin)
    stored, floats = {}, {}
    for name, weight in load_file(base / "model.safetensors").items():
        stored[name] = floats[name] = weight
        if name.endswith("proj.weight"):
            del stored[name]
            tensors, floats[name] = quantize(weight)
            stored |= {name.removesuffix("weight") + key: value.contiguous() for key, value in tensors.items()}
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    save_file(floats, twin / "model.safetensors", metadata={"format": "pt"})
    return path, twin


def fp8(base, folder):
    def quantize(weight):
        rows, columns = weight.shape
        blocks = weight.view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3)) / 448
        stored = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        floats = (stored.float() * scale[:, None, :, None]).view(rows, columns)
        return {"weight": stored.view(rows, columns), "weight_scale_inv": scale}, floats

    about = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    return _write(base, folder, about, quantize)


def compressed_int8(base, folder):
    def quantize(weight):
        scale = weight.abs().amax(1, keepdim=True) / 127
        stored = (weight / scale).round().to(torch.int8)
        return {"weight": stored, "weight_scale": scale}, stored.float() * scale

    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
    about = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    return _write(base, folder, about, quantize)


def _packed(numbers, order=range(8)):
    """Eight 4-bit numbers of each row in one number of 32 bits: `[n, m]` → `[n, m / 8]`."""
    numbers = numbers.view(len(numbers), -1, 8).long()
    packed = sum(numbers[..., j] << (4 * i) for i, j in enumerate(order))
    return packed.where(packed < 2**31, packed - 2**32).to(torch.int32)


def _four_bits(weight):
    """(numbers `[in, out]`, scales `[group, out]`, zeros `[group, out]`, dequantised weight)."""
    groups = weight.t().reshape(-1, GROUP, len(weight))
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    zero = (-low / scale).round().clamp(1, 15)
    numbers = (groups / scale[:, None] + zero[:, None]).round().clamp(0, 15)
    floats = ((numbers - zero[:, None]) * scale[:, None]).reshape(-1, len(weight)).t().contiguous()
    return numbers.reshape(-1, len(weight)), scale.half(), zero, floats


def gptq(base, folder):
    def quantize(weight):
        numbers, scales, zeros, floats = _four_bits(weight)
        # GPTQ packs eight rows into one, and stores the zeros less one.
        stored = {"qweight": _packed(numbers.t()).t(), "qzeros": _packed(zeros - 1), "scales": scales}
        return {**stored, "g_idx": (torch.arange(weight.shape[1]) // GROUP).to(torch.int32)}, floats

    return _write(base, folder, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}, quantize)


def awq(base, folder):
    def quantize(weight):
        numbers, scales, zeros, floats = _four_bits(weight)
        packed = {"qweight": _packed(numbers, AWQ_ORDER), "qzeros": _packed(zeros, AWQ_ORDER), "scales": scales}
        return packed, floats

    about = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    return _write(base, folder, about, quantize)


def bitsandbytes(base, folder, bits, **options):
    """The twin has the weights that bitsandbytes itself dequantises."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, **options)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
    path, twin = folder / "quantised", folder / "twin"
    model.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    shutil.copytree(base, twin)
    floats = {name: value.float() for name, value in model.dequantize(dtype=torch.float32).state_dict().items()}
    save_file({n: v.contiguous() for n, v in floats.items()}, twin / "model.safetensors", metadata={"format": "pt"})
    return path, twin
