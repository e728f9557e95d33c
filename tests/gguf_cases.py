"""A tiny Llama as a GGUF file with its tokenizer, beside a directory with its dequantised weights."""

import torch
from safetensors.torch import save_file

from conftest import byte_tokenizer, tiny_model
from quantized_cases import LARGE

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def gguf_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name in NAMES:
        return f"{NAMES[name]}.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def permuted(weight, num_heads: int):
    """GGUF stores the rows of Q and K of a Llama in another order."""
    return weight.reshape(num_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def save_gguf(folder):
    """(the GGUF file, the directory of the float model)."""
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = tiny_model(**LARGE), byte_tokenizer()
    config = model.config
    path, twin = folder / "tiny.Q8_0.gguf", folder / "twin"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get), "th", "er"]
    words += [f"<unused{i}>" for i in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word[0] == "<" and len(word) > 1 else 1 for word in words])
    # Older transformers read a list of one merge wrongly.
    writer.add_token_merges(["t h", "e r"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    floats = {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        number = heads.get(name.split(".")[-2])
        stored = (weight if number is None else permuted(weight, number)).numpy()
        floats[name] = weight
        if weight.ndim == 1:
            writer.add_tensor(gguf_name(name), stored)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        blocks = gguf.quants.quantize(stored, kind)
        writer.add_tensor(gguf_name(name), blocks, raw_dtype=kind)
        # Blocks go along a row, so that the order of the rows is of no account.
        floats[name] = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.save_pretrained(twin)
    tokenizer.save_pretrained(twin)
    save_file({n: v.contiguous() for n, v in floats.items()}, twin / "model.safetensors", metadata={"format": "pt"})
    return path, twin
