"""What it costs to measure a model whose weights are offloaded, and whether the numbers stay the same.

A random Llama of twelve layers is saved, and loaded in three ways: whole; with the layers and the head in main memory;
and with the layers and the head on disk. In the last two cases accelerate loads the weights of one module at a time.
On a CPU, "main memory" is the place of the weights in any case, so only the work of the hooks is seen. Every round
runs each way once on the same rollouts, and ratios are taken within a round. Peak memory is taken in fresh processes,
above the loaded model; one more row shows it if autograd keeps the weights that a backward pass needs.

    python benchmarks/offload.py [--rounds 7] [--out benchmarks/results]

Writes OUT/offload-DEVICE.json, one row per estimator and way.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import torch
from accelerate import cpu_offload
from transformers import LlamaConfig, LlamaForCausalLM

from antiphase import SignalSpec, TokenBatch, token_signals
from antiphase.models.loading_errors import quiet
from antiphase.signals import capture
from rows import device_name, peak_apart, rows_of, write

SHAPE = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 8192,
}  # fmt: skip
WAYS = ("whole", "main memory", "disk")
SPECS = {
    "own": SignalSpec(),
    "last": SignalSpec("last", "last"),
    "full": SignalSpec("full", targets_per_rollout=2),
}


def rollouts(num_tokens: int = 96) -> TokenBatch:
    """Return four rollouts of random tokens, with prompts of 32 tokens."""
    ids = torch.randint(5, SHAPE["vocab_size"], (4, 32 + num_tokens), generator=torch.Generator().manual_seed(0))
    return TokenBatch.from_ids(ids[:, :32].tolist(), ids[:, 32:].tolist())


def loaded(folder: str, way: str):
    """Load the saved model in one of the ways."""
    load = LlamaForCausalLM.from_pretrained
    with quiet():
        if way == "disk":
            layers = {f"model.layers.{i}": "disk" for i in range(SHAPE["num_hidden_layers"])}
            here = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
            return load(folder, device_map={**here, **layers, "lm_head": "disk"}, dtype=torch.float32).eval()
        model = load(folder, dtype=torch.float32).eval()
        return cpu_offload(model, execution_device=torch.device("cpu")) if way == "main memory" else model


def measuring(folder: str, way: str, estimator: str, keep: bool = False):
    """Return the work of measuring the rollouts; with `keep`, autograd keeps the weights, as it does by default."""
    if keep:
        capture.reloading = contextlib.nullcontext
    model, batch = loaded(folder, way), rollouts()
    return lambda: token_signals(model, batch, SPECS[estimator])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
        size = sum(one.numel() * one.element_size() for one in model.parameters()) / 2**20
        model.save_pretrained(folder)
        del model
        models, batch = {way: loaded(folder, way) for way in WAYS}, rollouts()
        for estimator, spec in SPECS.items():
            truth, *others = (token_signals(models[way], batch, spec).strength.nan_to_num(0) for way in WAYS)
            errors = [0.0, *(float(((one - truth).abs() / truth.abs().clamp_min(1e-9)).max()) for one in others)]
            works = {way: lambda way=way, spec=spec: token_signals(models[way], batch, spec) for way in WAYS}
            found = rows_of(
                estimator, works, options.rounds, beside="whole", shape={"tokens": 4 * 96}, dtype="float32"
            )
            for row, error in zip(found, errors, strict=True):
                row |= {"error": error, "peak_mib": peak_apart(measuring, folder, row["work"], estimator)}
            keeping = peak_apart(measuring, folder, "disk", estimator, True)
            rows += [*found, {"case": estimator, "work": "disk, weights kept by autograd", "peak_mib": keeping}]
            print(json.dumps(rows[-4:], indent=1), flush=True)
    write(options.out / f"offload-{device_name().replace('x86_64', 'cpu')}.json", rows, weights_mib=size, shape=SHAPE)


if __name__ == "__main__":
    main()
