"""antiphase: measure and train the Entropy-Gradient Inversion of reasoning models.

The public names; each is imported on first use, so that `import antiphase` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antiphase.bootstrap import mean_within as mean_within
    from antiphase.bootstrap import pooled_correlation as pooled_correlation
    from antiphase.correlation import coefficients as coefficients
    from antiphase.correlation import correlate as correlate
    from antiphase.errors import AntiphaseError as AntiphaseError
    from antiphase.evaluation.comparing import compare as compare
    from antiphase.evaluation.result import Evaluation as Evaluation
    from antiphase.evaluation.runner import evaluate as evaluate
    from antiphase.models.loading import load_model as load_model
    from antiphase.partial import partial_coefficients as partial_coefficients
    from antiphase.partial import pooled_partial as pooled_partial
    from antiphase.probing.config import ProbeConfig as ProbeConfig
    from antiphase.probing.fingerprint import Fingerprint as Fingerprint
    from antiphase.probing.runner import probe as probe
    from antiphase.probing.series import probe_checkpoints as probe_checkpoints
    from antiphase.report.writing import write_report as write_report
    from antiphase.signals.measure import token_signals as token_signals
    from antiphase.steps.assigning import batch_steps as batch_steps
    from antiphase.steps.assigning import token_steps as token_steps
    from antiphase.steps.splitter import Splitter as Splitter
    from antiphase.train.callback import InversionCallback as InversionCallback
    from antiphase.train.config import CorRPOConfig as CorRPOConfig
    from antiphase.train.probe_set import ProbeSet as ProbeSet
    from antiphase.train.trainer import CorRPOTrainer as CorRPOTrainer
    from antiphase.types import Correlation as Correlation
    from antiphase.types import SignalSpec as SignalSpec
    from antiphase.types import StepSignals as StepSignals
    from antiphase.types import TokenBatch as TokenBatch
    from antiphase.types import TokenSignals as TokenSignals

_HOMES = {
    "AntiphaseError": "errors",
    "CorRPOConfig": "train.config",
    "CorRPOTrainer": "train.trainer",
    "Correlation": "types",
    "Evaluation": "evaluation.result",
    "Fingerprint": "probing.fingerprint",
    "InversionCallback": "train.callback",
    "ProbeConfig": "probing.config",
    "ProbeSet": "train.probe_set",
    "SignalSpec": "types",
    "Splitter": "steps.splitter",
    "StepSignals": "types",
    "TokenBatch": "types",
    "TokenSignals": "types",
    "batch_steps": "steps.assigning",
    "coefficients": "correlation",
    "compare": "evaluation.comparing",
    "correlate": "correlation",
    "evaluate": "evaluation.runner",
    "load_model": "models.loading",
    "mean_within": "bootstrap",
    "partial_coefficients": "partial",
    "pooled_correlation": "bootstrap",
    "pooled_partial": "partial",
    "probe": "probing.runner",
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
