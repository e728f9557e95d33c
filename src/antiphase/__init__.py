"""antiphase: measure and train the Entropy-Gradient Inversion of reasoning models.

This module lists the public names. Each name is imported when it is first used, so `import antiphase` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antiphase.errors import AntiphaseError as AntiphaseError
    from antiphase.evaluation.compare import compare as compare
    from antiphase.evaluation.evaluate import evaluate as evaluate
    from antiphase.evaluation.result import Evaluation as Evaluation
    from antiphase.inversion.inversion_reward import InversionReward as InversionReward
    from antiphase.inversion.inversion_spec import InversionSpec as InversionSpec
    from antiphase.models.loading import load_model as load_model
    from antiphase.probing.fingerprint import Fingerprint as Fingerprint
    from antiphase.probing.probe import probe as probe
    from antiphase.probing.probe_config import ProbeConfig as ProbeConfig
    from antiphase.probing.series import probe_checkpoints as probe_checkpoints
    from antiphase.report.writing import write_report as write_report
    from antiphase.signal_spec import SignalSpec as SignalSpec
    from antiphase.signals.measure import token_signals as token_signals
    from antiphase.statistics.correlation import coefficients as coefficients
    from antiphase.statistics.correlation import correlate as correlate
    from antiphase.statistics.partial_correlation import partial_coefficients as partial_coefficients
    from antiphase.statistics.partial_correlation import pooled_partial as pooled_partial
    from antiphase.statistics.pooled_correlation import mean_within as mean_within
    from antiphase.statistics.pooled_correlation import pooled_correlation as pooled_correlation
    from antiphase.steps.assigning import batch_steps as batch_steps
    from antiphase.steps.assigning import token_steps as token_steps
    from antiphase.steps.splitter import Splitter as Splitter
    from antiphase.training.callback import InversionCallback as InversionCallback
    from antiphase.training.probe_set import ProbeSet as ProbeSet
    from antiphase.training.trainer import CorRPOTrainer as CorRPOTrainer
    from antiphase.training.trainer_config import CorRPOConfig as CorRPOConfig
    from antiphase.types import Correlation as Correlation
    from antiphase.types import StepSignals as StepSignals
    from antiphase.types import TokenBatch as TokenBatch
    from antiphase.types import TokenSignals as TokenSignals

_HOMES = {
    "AntiphaseError": "errors",
    "CorRPOConfig": "training.trainer_config",
    "CorRPOTrainer": "training.trainer",
    "Correlation": "types",
    "Evaluation": "evaluation.result",
    "Fingerprint": "probing.fingerprint",
    "InversionCallback": "training.callback",
    "InversionReward": "inversion.inversion_reward",
    "InversionSpec": "inversion.inversion_spec",
    "ProbeConfig": "probing.probe_config",
    "ProbeSet": "training.probe_set",
    "SignalSpec": "signal_spec",
    "Splitter": "steps.splitter",
    "StepSignals": "types",
    "TokenBatch": "types",
    "TokenSignals": "types",
    "batch_steps": "steps.assigning",
    "coefficients": "statistics.correlation",
    "compare": "evaluation.compare",
    "correlate": "statistics.correlation",
    "evaluate": "evaluation.evaluate",
    "load_model": "models.loading",
    "mean_within": "statistics.pooled_correlation",
    "partial_coefficients": "statistics.partial_correlation",
    "pooled_correlation": "statistics.pooled_correlation",
    "pooled_partial": "statistics.partial_correlation",
    "probe": "probing.probe",
    "probe_checkpoints": "probing.series",
    "token_signals": "signals.measure",
    "token_steps": "steps.assigning",
    "write_report": "report.writing",
}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'antiphase' has no attribute {name!r}")
    return getattr(importlib.import_module(f"antiphase.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
