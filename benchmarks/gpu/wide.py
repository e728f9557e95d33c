"""Right, at sizes where a GPU takes ways of its own: matrix products instead of eigenvalues, Cholesky instead of QR.

One model of two layers whose matrices have 192 rows, a rollout of 150 tokens (Cholesky) and one of 700 (QR), of which
the last are completion, against the float64 oracle on the CPU: a few tokens, or two steps. Float32, since the limit of
bfloat16 is rounding's.
"""

import copy
import itertools
from dataclasses import replace

import torch
from kit import DEVICE, Part
from right import FLOAT32_LIMIT, error_of, pure_double
from shapes import tiny_model
from torch import Tensor, nn

from antiphase import SignalSpec, TokenBatch, token_signals

SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "head_dim": 32,
}
FEW = 3
# (Tokens, of these in the completion).
DRY_LENGTHS, LENGTHS = ((40, 6),), ((150, 24), (700, 6))
ORACLES = {"own": "oracle-own", "last": "oracle", "full": "oracle"}


def wide(part: Part) -> None:
    """Errors of every estimator, of tokens and of steps."""
    model = tiny_model("llama", noise=0.3, **SHAPE)
    generator = torch.Generator().manual_seed(0)
    for length, num_tokens in DRY_LENGTHS if part.dry else LENGTHS:
        ids = torch.randint(3, 300, (length,), generator=generator).tolist()
        parts = (ids[:-num_tokens], ids[-num_tokens:])
        truths: dict[tuple[str, str, bool], Tensor] = {}
        for estimator, joint in itertools.product(ORACLES, (False, True)):
            with part.cell("wide", 40, estimator=estimator, tokens=length, joint=joint) as row:
                layers = "last" if estimator == "last" else "all"
                more = {"targets_per_rollout": 0, "step_strength": "joint"} if joint else {"targets_per_rollout": FEW}
                spec = SignalSpec(estimator, layers, **more)  # type: ignore[arg-type]
                key = (ORACLES[estimator], layers, joint)
                if key not in truths:
                    exact = copy.deepcopy(model).double()
                    exact.config = copy.deepcopy(model.config)
                    exact.set_attn_implementation("eager")
                    with pure_double():
                        truths[key] = strength(exact, parts, replace(spec, estimator=ORACLES[estimator]), "cpu")  # type: ignore[arg-type]
                found = strength(copy.deepcopy(model).to(DEVICE), parts, spec, DEVICE)
                row["error"] = error_of(found, truths[key])
                row["limit"] = FLOAT32_LIMIT
                if not row["error"] <= FLOAT32_LIMIT:
                    row["status"] = "wrong"


def strength(
    model: nn.Module, parts: tuple[list[int], list[int]], spec: SignalSpec, device: torch.device | str
) -> Tensor:
    """Of the measured tokens, or of two steps."""
    batch = TokenBatch.from_ids([parts[0]], [parts[1]], device=device)
    if spec.step_strength != "joint":
        found = token_signals(model, batch, spec)
        return found.strength_by_projection[found.measured].double().cpu()
    place = batch.completion_mask.long().cumsum(1) - 1
    steps = torch.where(batch.completion_mask, (place >= len(parts[1]) // 2).long(), -1)
    found = token_signals(model, batch, spec, steps=steps)
    assert found.steps is not None
    return found.steps.strength_by_projection[found.steps.num_tokens > 0].double().cpu()
