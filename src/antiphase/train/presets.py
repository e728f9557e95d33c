"""Baselines as presets: each a few of the host's arguments, pinned, with its source and its deviations.

TRL's own defaults are no published method (DAPO's loss without its clip-higher, β = 0, group scaling), so a preset
pins every argument that makes the method what it is. Arguments that the user gives win over the preset's.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from antiphase.errors import InvalidInputError

CORR_PO = "corr-po"


@dataclass(frozen=True)
class Preset:
    """A method as arguments of the host.

    Args:
        name: as it is called in recipes.
        arguments: of `GRPOConfig`.
        source: the paper.
        deviations: what the host does otherwise.
    """

    name: str
    arguments: Mapping[str, Any]
    source: str
    deviations: str


# What no preset leaves to the host's defaults.
_ON_POLICY: dict[str, Any] = {
    "beta": 0.0,
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "delta": None,
    "importance_sampling_level": "token",
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    "mask_truncated_completions": False,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
}
_DAPO: dict[str, Any] = {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True}


def _preset(name: str, source: str, deviations: str, **arguments: Any) -> Preset:
    return Preset(name, MappingProxyType({**_ON_POLICY, **arguments}), source, deviations)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _preset(
            "grpo",
            "DeepSeekMath, arXiv 2402.03300",
            "Outcome rewards alone; learning rate and group size are the recipe's.",
            loss_type="grpo",
            beta=0.04,
        ),
        _preset(
            "dr-grpo",
            "Understanding R1-Zero-Like Training, arXiv 2503.20783",
            "None in the loss: token sums over a constant length, no division by the group's deviation, no KL.",
            loss_type="dr_grpo",
            scale_rewards="none",
        ),
        _preset(
            "dapo",
            "DAPO, arXiv 2503.14476",
            "No dynamic sampling: groups of tied rewards stay in the batch (their share is logged). Truncated "
            "completions are masked; the soft overlong punishment is not part of it.",
            **_DAPO,
        ),
        _preset(
            "gspo",
            "Group Sequence Policy Optimization, arXiv 2507.18071",
            "The paper splits a batch into 4 minibatches; set steps_per_generation above gradient_accumulation_steps "
            "for that, else its clip never binds.",
            loss_type="grpo",
            importance_sampling_level="sequence",
            epsilon=3e-4,
            epsilon_high=4e-4,
        ),
        _preset(
            "cispo",
            "MiniMax-M1, arXiv 2506.13585",
            "The upper bound of the weight is 5, as ScaleRL (arXiv 2510.13786) found; the paper gives no number.",
            loss_type="cispo",
            epsilon_high=5.0,
        ),
        _preset(
            "sapo",
            "Soft Adaptive Policy Optimization, arXiv 2511.20347",
            "None known; temperatures 1.0 and 1.05 as in the paper.",
            loss_type="sapo",
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        ),
        _preset(
            "gdpo",
            "GDPO, arXiv 2601.05242",
            "Clip and loss are GRPO's without KL. With one reward function it is GRPO with batch whitening.",
            loss_type="grpo",
            multi_objective_aggregation="normalize_then_sum",
        ),
        _preset(
            "entropy-bonus",
            "Entropy regularisation as in A3C, arXiv 1602.01783, on GRPO without KL",
            "Coefficient 0.001, the default that verl ships; no paper fixes one for language models.",
            loss_type="grpo",
            entropy_coef=0.001,
        ),
        _preset(
            "high-entropy-20",
            "Beyond the 80/20 Rule, arXiv 2506.01939",
            "On DAPO as in the paper, with DAPO's deviations; the quantile is taken per batch of the host.",
            **_DAPO,
            top_entropy_quantile=0.2,
        ),
    )
}


def resolve_preset(text: str) -> tuple[Preset, bool]:
    """The preset of a name, and whether CorR-PO is put on top of it (`dapo+corr-po`).

    Raises:
        InvalidInputError: no such preset; names the nearest.

    >>> preset, with_inversion = resolve_preset("dapo+corr-po")
    >>> preset.arguments["epsilon_high"], with_inversion
    (0.28, True)
    """
    names = text.split("+")
    with_inversion = CORR_PO in names
    base = [name for name in names if name != CORR_PO]
    if len(names) > 2 or len(base) != 1 or base[0] not in PRESETS:
        near = difflib.get_close_matches(base[0] if base else text, PRESETS, 1)
        raise InvalidInputError(
            f"unknown preset {text!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
            + f" There are {', '.join(PRESETS)}, each alone or with +{CORR_PO}."
        )
    return PRESETS[base[0]], with_inversion
