"""Load checkpoints whose weights are quantised, and refuse the kinds that cannot be measured.

The file config.json of such a checkpoint has an entry `quantization_config`. The estimators `own`, `last` and `full`
need no gradient at a weight: they use the inputs of the projections, and the gradients at their outputs. So the
weights may stay quantised if the modules pass a gradient to their inputs. A module that passes no gradient, or a wrong
one, would give wrong strengths without an error, so `check_gradients` tests every kind of module.

Weights in FP8 and compressed-tensors are dequantised while they are loaded, so the measured numbers are the same on
every device. An inference engine on a GPU also rounds the inputs of FP8 modules. Measurements leave out this rounding.
"""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from antiphase.devices import says_out_of_memory
from antiphase.errors import ModelNotFoundError, UnsupportedModelError, first_line
from antiphase.models.fact_notes import quantization_label
from antiphase.models.placement import device_of

_TOLERANCE = 0.1
GGUF = "GGUF"


@dataclass(frozen=True)
class _Kind:
    """What must be known about a quantisation method to load its checkpoints so that they can be measured.

    Args:
        packages: the packages that load such weights. The keys are the names for pip, the values the names for
            `import`.
        changes: entries that are set in the model's `quantization_config` before loading.
    """

    packages: Mapping[str, str]
    changes: Mapping[str, Any]


_ACCELERATE = {"accelerate": "accelerate"}
_DEQUANTIZE = {"dequantize": True}
# gptqmodel has kernels for inference alone; this choice takes those that pass a gradient.
_TRAINABLE = {"backend": "auto_trainable"}
_KINDS = {
    "bitsandbytes": _Kind({**_ACCELERATE, "bitsandbytes": "bitsandbytes"}, {}),
    "gptq": _Kind({**_ACCELERATE, "optimum": "optimum", "gptqmodel": "gptqmodel"}, _TRAINABLE),
    "awq": _Kind({**_ACCELERATE, "gptqmodel": "gptqmodel"}, _TRAINABLE),
    "fp8": _Kind(_ACCELERATE, _DEQUANTIZE),
    "compressed-tensors": _Kind(
        {**_ACCELERATE, "compressed-tensors": "compressed_tensors"}, _DEQUANTIZE
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """How the weights of a checkpoint are quantised.

    Args:
        method: the entry `quant_method` of the checkpoint's `quantization_config`, such as `gptq`.
        bits: the number of bits of a weight; None if the configuration does not say.
        dequantized: whether the weights are dequantised while they are loaded.
    """

    method: str
    bits: int | None
    dequantized: bool

    @property
    def label(self) -> str:
        """The name of the quantisation in messages, such as `GPTQ (4 bit)`."""
        return quantization_label(self.method, self.bits)


def quantization_of(config: Any) -> Quantization | None:
    """Read from a model's configuration how its weights are quantised; None if they are not quantised."""
    stored = _stored(config)
    if stored is None:
        return None
    four, eight = (bool(stored.get(key)) for key in ("load_in_4bit", "load_in_8bit"))
    named = stored.get("quant_method") or ("bitsandbytes" if four or eight else "an unnamed method")
    method = str(getattr(named, "value", named))
    bits = 4 if four else 8 if eight else stored.get("bits")
    return Quantization(method, bits if isinstance(bits, int) else None, bool(stored.get("dequantize")))


def quantization_facts(found: Quantization | None) -> dict[str, Any] | None:
    """Return the fields of a `Quantization` as values that JSON can hold; None if nothing is quantised."""
    return None if found is None else asdict(found)


def prepare_config(name: str, config: Any) -> Quantization | None:
    """Check that a quantised checkpoint can be loaded and measured, and return how it is quantised.

    If the checkpoint is not quantised, return None.

    Args:
        name: the name of the model in messages.
        config: the model's configuration. Its `quantization_config` is changed, so that the loaded modules pass a
            gradient.

    Raises:
        UnsupportedModelError: antiphase does not measure this kind of quantisation.
        ModelNotFoundError: a package or a device that this kind of quantisation needs is missing.
    """
    found = quantization_of(config)
    if found is None:
        return None
    kind = _KINDS.get(found.method)
    if kind is None:
        known = ", ".join(quantization_label(method, None) for method in _KINDS)
        raise UnsupportedModelError(
            f"{name!r} is quantised with {found.label}, which antiphase does not measure. It measures {known}, GGUF "
            "files, and weights that are not quantised. Name a version of the model in one of these forms."
        )
    missing = [package for package, module in kind.packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModelNotFoundError(
            f"{name!r} is quantised with {found.label}. Loading it needs packages that are not installed: pip install "
            f"{' '.join(missing)}."
        )
    stored = {"quant_method": found.method, **(_stored(config) or {}), **kind.changes}
    config.quantization_config = stored
    with quantization_errors(name, found):
        from transformers.quantizers import AutoHfQuantizer

        AutoHfQuantizer.from_config(dict(stored), pre_quantized=True).validate_environment()
    return quantization_of(config)


@contextlib.contextmanager
def quantization_errors(name: str, quantization: Quantization | None) -> Iterator[None]:
    """Inside a `with` block that loads a quantised checkpoint, replace errors by one that names the quantisation.

    The packages that load quantised weights fail with errors of many types. An UnsupportedModelError and errors of
    exhausted memory are not replaced. If `quantization` is None, nothing is replaced.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError) as error:
        if quantization is None:
            raise
        raise _failed(name, quantization, error) from error
    except (NameError, RuntimeError, TypeError, ValueError) as error:
        known = isinstance(error, UnsupportedModelError) or says_out_of_memory(error)
        if quantization is None or known:
            raise
        raise _failed(name, quantization, error) from error


def check_oracle(model: nn.Module, estimator: str) -> None:
    """Raise UnsupportedModelError if an estimator needs the gradient at weights that are quantised.

    Args:
        model: the model, with or without its weights.
        estimator: the name of the estimator. Only the oracles need this gradient.
    """
    found = quantization_of(cast(Any, model).config) if estimator in ("oracle", "oracle-own") else None
    if found is not None and not found.dequantized:
        raise UnsupportedModelError(
            f"the weights are quantised with {found.label}, so they have no gradient, but the estimator "
            f"{estimator!r} needs the gradient at the weights. Use the estimators 'own', 'last' or 'full'."
        )


def prepare_model(name: str, model: nn.Module, quantization: Quantization) -> None:
    """Make the modules of a loaded quantised model pass gradients, and check that they do.

    Raises:
        UnsupportedModelError: a module passes no gradient, or a wrong one.
    """
    if quantization.method == "bitsandbytes":
        # bitsandbytes says at every call that it rounds the inputs of 8-bit modules.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        for module in _repacking(model):
            module.support_avx512bf16_for_cpu = False
    if not quantization.dequantized:
        with quantization_errors(name, quantization):
            check_gradients(name, model, quantization)


@contextlib.contextmanager
def without_repacking(model: nn.Module) -> Iterator[None]:
    """Inside a `with` block, keep 4-bit modules of bitsandbytes from changing the layout of their weights.

    The other layout passes no gradient.

    Raises:
        UnsupportedModelError: a module had already changed the layout of its weights, so it passes no gradient any
            more.
    """
    modules = _repacking(model)
    for module in modules:
        if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise UnsupportedModelError(
                "the 4-bit weights of this model have the layout of bitsandbytes for inference on a CPU, which passes "
                "no gradient. Load the model with antiphase.load_model, which keeps the other layout."
            )
    before = [module.support_avx512bf16_for_cpu for module in modules]
    try:
        for module in modules:
            module.support_avx512bf16_for_cpu = False
        yield
    finally:
        for module, state in zip(modules, before, strict=True):
            module.support_avx512bf16_for_cpu = state


def _repacking(model: nn.Module) -> list[Any]:
    """Return the 4-bit modules of bitsandbytes in a model, which may change the layout of their weights.

    On some processors, such a module changes the layout in its first call without gradient in evaluation mode. Then no
    gradient passes it any more, and PyTorch raises no error.
    """
    return [module for module in model.modules() if "support_avx512bf16_for_cpu" in vars(module)]


def check_gradients(name: str, model: nn.Module, quantization: Quantization) -> None:
    """Check that the quantised modules pass the right gradient to their inputs. One module of each type is tested.

    Let f be a module, which is linear; x a random input; v a random vector; g = ∂⟨v, f(x)⟩/∂x the gradient that the
    module passes; and u a vector in the direction of g. Then ⟨v, f(x + u) − f(x)⟩ must equal ⟨g, u⟩ up to a
    relative error of 0.1. The tolerance is this large because 8-bit modules round their inputs.

    Raises:
        UnsupportedModelError: a module passes no gradient, or a wrong one.
    """
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    seen = {nn.Linear}
    for path, module in model.named_modules():
        features = getattr(module, "in_features", None)
        if type(module) in seen or not isinstance(features, int):
            continue
        seen.add(type(module))
        device = device_of(module)
        error = _gradient_error(module, features, dtype, device)
        if error is None or not error <= _TOLERANCE:
            fault = "passes no gradient to its input" if error is None else "passes a wrong gradient to its input"
            raise UnsupportedModelError(
                f"{name!r} is quantised with {quantization.label}, and its module {path} ({type(module).__name__}) "
                f"{fault}, so its strengths cannot be measured. Name a version of the model that is not quantised."
            )


def _gradient_error(module: nn.Module, features: int, dtype: torch.dtype, device: torch.device) -> float | None:
    """Return the relative error of the gradient that a module passes to its input; None if it passes no gradient.

    `check_gradients` explains how the gradient is tested.
    """
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    with torch.enable_grad():
        inputs = random((1, 4, features)).requires_grad_(True)
        output = module(inputs)
        if not output.requires_grad:
            return None
        weights = random(tuple(output.shape))
        (gradient,) = torch.autograd.grad(output, inputs, weights)
    with torch.no_grad():
        size = gradient.float().norm()
        step = (gradient.float() * (inputs.float().norm() / size)).to(dtype)
        changed = module(inputs.detach() + step) - output.detach()
        expected = (gradient.double() * step.double()).sum()
        return float(abs((weights.double() * changed.double()).sum() / expected - 1))


def _stored(config: Any) -> dict[str, Any] | None:
    """Return the entry `quantization_config` of a model's configuration; None if there is none.

    In a model with several parts, the entry may also be in the configuration of the text model.
    """
    for part in (config, config.get_text_config(decoder=True)):
        stored = getattr(part, "quantization_config", None)
        if stored:
            return dict(stored if isinstance(stored, dict) else stored.to_dict())
    return None


def _failed(name: str, quantization: Quantization, error: Exception) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{name!r} is quantised with {quantization.label}, and it could not be loaded here ({first_line(error)})."
    )
