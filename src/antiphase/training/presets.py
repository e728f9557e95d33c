"""Lists the presets: published training methods as arguments of TRL, each with its source and its deviations.

The preset `corr-po` is the paper's method. `PRESETS` holds the baselines, which train without inversion. In a preset
such as `dapo+corr-po`, the paper's inversion term is added to the reward of a baseline.

TRL's defaults are not a published method. They use DAPO's loss, but not its higher upper clipping bound. They also set
β to 0, and divide the advantages by the group's standard deviation. A preset therefore sets every argument that
defines its method. If the user gives an argument too, the user's value is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.registry import Registry, did_you_mean

CORR_PO = "corr-po"
CORR_PO_FAST = "corr-po-fast"


@dataclass(frozen=True)
class Preset:
    """A published training method, given as arguments of TRL and of CorR-PO.

    Args:
        name: the preset's name in recipes.
        arguments: arguments of `GRPOConfig`, and of `CorRPOConfig` where the method needs them.
        source: the paper that describes the method.
        deviations: where TRL's method differs from the paper's.
        rewards: names of the reward functions, if the method prescribes them. A recipe with this preset must not name
            others. If the tuple is empty, the recipe chooses the reward functions.
    """

    name: str
    arguments: Mapping[str, Any]
    source: str
    deviations: str
    rewards: tuple[str, ...] = ()


# Arguments that every preset sets; a preset may give some of them other values.
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
    "dynamic_sampling": 0,
    "token_advantages": "none",
}
_DAPO: dict[str, Any] = {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True}


def _preset(name: str, source: str, deviations: str, *, rewards: tuple[str, ...] = (), **arguments: Any) -> Preset:
    return Preset(name, MappingProxyType({**_ON_POLICY, **arguments}), source, deviations, rewards)


_BASELINES = (
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
        "No dynamic sampling: groups of tied rewards stay in the batch (their share is logged); dapo-dynamic has it. "
        "Truncated completions are masked; the soft overlong punishment is not part of it.",
        **_DAPO,
    ),
    _preset(
        "dapo-dynamic",
        "DAPO, arXiv 2503.14476, with its dynamic sampling",
        "As dapo, but groups of tied task rewards are replaced in at most 10 rounds, the bound in verl's recipe. A "
        "round samples one further prompt for each such group, in an order of its own; DAPO samples whole batches of "
        "the next prompts. After the last round the batch is filled with tied groups; verl's recipe stops.",
        **_DAPO,
        dynamic_sampling=10,
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
    _preset(
        "adaptive-entropy",
        "Skywork-OR1, arXiv 2505.22312, section 3.3",
        "The target of 0.2 nats and the coefficient (from 0, in steps of 0.0001, at most 0.005) are those of its "
        "public scripts. Groups of tied rewards stay in the batch; the paper drops them. Set dynamic_sampling to "
        "replace them. Its stages of growing length are the recipe's.",
        loss_type="dapo",
        use_adaptive_entropy=True,
        entropy_target=0.2,
        entropy_coef_min=0.0,
        entropy_coef_max=0.005,
        entropy_coef_delta=0.0001,
    ),
    _preset(
        "gtpo",
        "GTPO, arXiv 2508.04349, as two public re-implementations give it",
        "We have not read the paper's own text. Clip and loss are DAPO's (0.2, 0.28, token sums), α₁ = 1, α₂ = 0.1; "
        "truncated completions are not masked, and there is no dynamic sampling.",
        loss_type="dapo",
        epsilon_high=0.28,
        token_advantages="gtpo",
    ),
    _preset(
        "vespo",
        "VESPO, arXiv 2602.10693",
        "None known in the loss: exponents 2 and 3, decay factors 3 and 2 for positive and negative advantages. Its "
        "weights are 1 if every step generates; set steps_per_generation above gradient_accumulation_steps.",
        loss_type="vespo",
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
    ),
    _preset(
        "luspo",
        "Length-Unbiased Sequence Policy Optimization, arXiv 2602.05261, section 5.1",
        "None known in the loss: GSPO's ratios, each sequence weighted by its length. As with gspo, its clip binds "
        "only with steps_per_generation above gradient_accumulation_steps.",
        loss_type="luspo",
        importance_sampling_level="sequence",
        epsilon=2e-3,
        epsilon_high=2.5e-3,
    ),
    _preset(
        "intuitor",
        "Intuitor, arXiv 2505.19590: self-certainty as the only reward",
        "β = 0.005 is that of its public code for a model of 3B (0.01 for 7B). Self-certainty is measured at "
        "temperature 1 with the policy that generated.",
        rewards=("self_certainty",),
        loss_type="grpo",
        beta=0.005,
    ),
    _preset(
        "random-reward",
        "Spurious Rewards, arXiv 2506.10947: a coin as the only reward, a control for other rewards",
        "γ = 0.5 and no KL, as in its public script. The gains that the paper reports come with GRPO's clipping: set "
        "steps_per_generation above gradient_accumulation_steps for that, else nothing is clipped.",
        rewards=("random",),
        loss_type="grpo",
    ),
)
# The first release did not have these presets, so a recipe that names one is newer; see `recipe.is_former`.
LATER = ("dapo-dynamic", "adaptive-entropy", "gtpo", "vespo", "luspo", "intuitor", "random-reward")


# The paper's reward, as a public digest reports it: R = r − λ (1 + ρ), with ρ the Spearman correlation over the
# sentences of a rollout, by the nuclear norms of the full gradient of all layers. The digest is silent on three
# points, which are our reading: the splitter, the value that an undefined ρ counts as, and the joint strength of a
# sentence. A joint strength takes one backward pass for each sentence, a mean strength one for each token. No preset
# sets λ.
_PAPER_TERM: dict[str, Any] = {
    "inversion_combine": "penalty",
    "inversion_unit": "step",
    "inversion_splitter": "sentence",
    "inversion_step_strength": "joint",
    "inversion_undefined": "neutral",
    "inversion_tied": "keep",
    "inversion_estimator": "full",
    "inversion_layers": "all",
    "inversion_projections": "QKVO",
    "inversion_norm": "nuclear",
    "inversion_target": "logit",
    "inversion_correlation": "spearman",
    "inversion_shrink": 0.0,
    "inversion_clip": 1.0,
    "inversion_control": "none",
}
TERMS: dict[str, Mapping[str, Any]] = {
    CORR_PO: MappingProxyType(_PAPER_TERM),
    CORR_PO_FAST: MappingProxyType({**_PAPER_TERM, "inversion_estimator": "own"}),
}
_TERM_SOURCE = "CorR-PO, arXiv 2605.17770, as a public digest of the paper reports it"
_TERM_DEVIATIONS: dict[str, str] = {
    CORR_PO: "λ, the splitter, the strength of a sentence (joint) and what an undefined ρ counts as are our reading.",
    CORR_PO_FAST: "As corr-po, but by the gradient at the token's own position: another quantity, far cheaper.",
}


class _Presets(Registry[Preset]):
    """A mapping from names to the baselines.

    The error message for an unknown name also lists `corr-po` and `corr-po-fast`.
    """

    def check(self, name: str) -> None:
        if name not in self:
            raise InvalidInputError(
                f"{name!r} is not a preset.{did_you_mean(name, [*self, *TERMS])} The baselines are {', '.join(self)}. "
                f"Name a baseline alone, or with +{CORR_PO} or +{CORR_PO_FAST} after it. {CORR_PO} and {CORR_PO_FAST} "
                "can also stand alone, and then mean grpo with this term."
            )

    def add(self, name: str, thing: Preset | str) -> None:
        if "+" in name or name in TERMS:
            raise InvalidInputError(
                f"a preset cannot be called {name!r}: a name must not contain '+', and must not be {CORR_PO} or "
                f"{CORR_PO_FAST}, because +{CORR_PO} and +{CORR_PO_FAST} after a preset's name add the inversion "
                "term. Choose another name."
            )
        super().add(name, thing)


PRESETS = _Presets("preset", {preset.name: preset for preset in _BASELINES})


def resolve_preset(text: str) -> tuple[Preset, bool]:
    """Return the preset that a recipe names, and whether CorR-PO's inversion term is part of it.

    `corr-po` alone is the paper's method: the inversion term is added to the baseline `grpo`. In `dapo+corr-po` the
    same term is added to the baseline `dapo`. `corr-po-fast` in place of `corr-po` computes the term faster, from the
    gradient at each token's own position alone.

    Raises:
        InvalidInputError: no preset has this name; the message suggests the most similar name.

    >>> preset, with_inversion = resolve_preset("dapo+corr-po")
    >>> preset.arguments["epsilon_high"], preset.arguments["inversion_unit"], with_inversion
    (0.28, 'step', True)
    """
    names = text.split("+")
    terms = [name for name in names if name in TERMS]
    bases = [name for name in names if name not in TERMS] or ["grpo"]
    if len(names) > 2 or len(terms) > 1 or len(bases) > 1:
        PRESETS.check(text)
    base = PRESETS[bases[0]]
    if not terms:
        return base, False
    return (
        Preset(
            text,
            MappingProxyType({**base.arguments, **TERMS[terms[0]]}),
            f"{_TERM_SOURCE}; on {base.source}",
            f"{_TERM_DEVIATIONS[terms[0]]} {base.deviations}",
            base.rewards,
        ),
        True,
    )
