"""CPU time, memory and answers of the output head: antiphase beside other implementations, on the same work.

The work: from final hidden states and the weight of the output layer, the entropy of each distribution and the
log-probability of each generated token, in float32, on one thread. antiphase's head also computes the control, the
self-certainty, the impurity and the raw logits in the same pass; the last row adds the seeds and five alternatives.
Half of the tokens are drawn at random, and the model is almost sure of the other half.

* `antiphase`: tiles of the vocabulary.
* `antiphase, whole vocabulary`: its path for heads that cannot be cut into tiles.
* `naive`: all logits, and their `log_softmax`.
* `TRL, all logits`: all logits, and TRL's `selective_log_softmax_and_entropy`.
* `TRL, fused head`: the function behind TRL's `add_fused_lm_head`. It takes tiles of 4,096 tokens and 32,768 words.
* `torch linear_cross_entropy`: PyTorch's, in chunks of 512 tokens, and the entropy from nll − ⟨h, ∂nll/∂h⟩. With the
  chunks that it chooses itself (2 to 64 tokens), it takes many times as long on a CPU.
* Liger's fused heads need Triton and a GPU. They are left out.

Each row has the time, the peak memory (`peak_mib` of the process, `tensors_mib` of what PyTorch allocates) and the
greatest errors against float64. `same` says whether they are below 1e-6 · (1 + value).

    python benchmarks/head.py [--rounds 3] [--share 1] [--cases NAME,...] [--out benchmarks/results]

Writes OUT/head-cpu.json, in about 9 minutes on a free core. `--share 0.1` takes a tenth of the tokens.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from antiphase import SignalSpec
from antiphase.devices import return_freed_memory
from antiphase.signals import vocabulary_tiles
from antiphase.signals.entropy import head_signals
from rows import peak_mib, rows_of, write

# Tokens, size of the hidden states, vocabulary.
CASES = {"SmolLM2-135M": (4096, 576, 49152), "Qwen2.5-1.5B": (1024, 1536, 151936)}
OURS = "antiphase"
CHECKED = 64


def model_of(hidden: int, vocabulary: int) -> LlamaForCausalLM:
    """Return a model of one layer, whose output layer has random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=64, num_hidden_layers=1, num_attention_heads=8,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.lm_head.weight.normal_(0, hidden**-0.5)
    return model


def states_of(weight: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return (final hidden states, generated tokens). The model is almost sure of every second token."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, len(weight), (number,), generator=generator)
    states = 3 * torch.randn(number, weight.shape[1], generator=generator)
    rows = weight[ids[::2]]
    states[::2] += rows * (torch.linspace(12, 34, len(rows))[:, None] / rows.square().sum(-1, keepdim=True))
    return states, ids


def ours(model: LlamaForCausalLM, states: Tensor, ids: Tensor, *, more: bool = False) -> tuple[Tensor, Tensor]:
    found = head_signals(model, states, ids, SignalSpec(num_alternatives=5 if more else 0), want_seed=more)
    return found.entropy, found.logprob


def ours_whole(model: LlamaForCausalLM, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    plain = vocabulary_tiles.plain_linear
    vocabulary_tiles.plain_linear = lambda _: None
    try:
        return ours(model, states, ids)
    finally:
        vocabulary_tiles.plain_linear = plain


def naive(model: LlamaForCausalLM, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    log_p = (states @ model.lm_head.weight.T).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1), log_p.gather(-1, ids[:, None])[:, 0]


def trl_all_logits(model: LlamaForCausalLM, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    from trl.trainer.utils import selective_log_softmax_and_entropy

    logprob, entropy = selective_log_softmax_and_entropy(states @ model.lm_head.weight.T, ids)
    return entropy, logprob


def trl_fused(model: LlamaForCausalLM, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    logprob, entropy, *_ = _ChunkedLogProbFunction.apply(
        states, model.lm_head.weight, None, ids, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy",)
    )
    return entropy, logprob


def torch_fused(model: LlamaForCausalLM, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    leaf = states.detach().requires_grad_()
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=512, chunking_method=None)
    with torch.enable_grad():
        nll = functional.linear_cross_entropy(leaf, model.lm_head.weight, ids, reduction="none", options=options)
        (gradient,) = torch.autograd.grad(nll.sum(), leaf)
    return nll.detach() - (states * gradient).sum(-1), -nll.detach()


WORKS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    OURS: ours,
    "antiphase, whole vocabulary": ours_whole,
    "naive": naive,
    "TRL, all logits": trl_all_logits,
    "TRL, fused head": trl_fused,
    "torch linear_cross_entropy": torch_fused,
    "antiphase, seeds and alternatives": lambda *given: ours(*given, more=True),
}


def errors_of(found: tuple[Tensor, Tensor], model: LlamaForCausalLM, states: Tensor, ids: Tensor) -> dict[str, object]:
    """Return the greatest errors of entropy and log-probability against float64, on the first tokens."""
    logits = states[:CHECKED].double() @ model.lm_head.weight.double().T
    log_p = logits.log_softmax(-1)
    truth = -(log_p.exp() * log_p).sum(-1), log_p.gather(-1, ids[:CHECKED, None])[:, 0]
    # Products in float32 differ from those in float64. The errors of what follows are those of the same logits.
    single = (states[:CHECKED] @ model.lm_head.weight.T).double().log_softmax(-1)
    of_single = -(single.exp() * single).sum(-1), single.gather(-1, ids[:CHECKED, None])[:, 0]
    errors: dict[str, object] = {}
    for name, value, exact, same_logits in zip(("entropy", "logprob"), found, truth, of_single, strict=True):
        wide = value[:CHECKED].double()
        errors[f"{name}_error"] = float((wide - exact).abs().max())
        errors[f"{name}_error_of_same_logits"] = float((wide - same_logits).abs().max())
        errors[f"{name}_same"] = bool(((wide - same_logits).abs() < 1e-6 * (1 + same_logits.abs())).all())
    return errors


def tensors_mib(work: Callable[[], object]) -> float:
    """Return the greatest memory that PyTorch's tensors take during a piece of work, in MiB."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if importlib.util.find_spec("liger_kernel") is None:
        print("Liger is not installed. Its fused heads would need a GPU anyway.")
    rows = []
    for case in options.cases.split(","):
        number, hidden, vocabulary = CASES[case]
        model = model_of(hidden, vocabulary)
        states, ids = states_of(model.lm_head.weight, int(number * options.share))
        works = {name: partial(work, model, states, ids) for name, work in WORKS.items()}
        facts = {}
        for name, work in works.items():
            found: list[tuple[Tensor, Tensor]] = []
            return_freed_memory(torch.device("cpu"))
            memory = {"peak_mib": peak_mib(lambda work=work, found=found: found.append(work()))}
            memory["tensors_mib"] = tensors_mib(work)
            facts[name] = memory | errors_of(found[0], model, states, ids)
        shape = {"tokens": len(states), "hidden": hidden, "vocabulary": vocabulary}
        for row in rows_of(case, works, options.rounds, beside=OURS, shape=shape, dtype="float32"):
            rows.append(row | facts[row["work"]])
            print(rows[-1], flush=True)
    tile = vocabulary_tiles._TILE
    write(options.out / "head-cpu.json", rows, tile=tile, tile_mib=tile[0] * tile[1] * 4 / 2**20)


if __name__ == "__main__":
    main()
