"""Load a causal language model and its tokenizer, and check that its weights are finite.

A model is named by a hub id, a directory, a GGUF file, or `demo`. An adapter, such as LoRA, can be put on it.
"""

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from antiphase.errors import (
    InvalidInputError,
    ModelNotFoundError,
    first_line,
)
from antiphase.models.adapters import add_adapter
from antiphase.models.architecture import find_attention
from antiphase.models.device_maps import check_covers, check_device_map, read_device_map
from antiphase.models.dtypes import DTYPES
from antiphase.models.gguf import gguf_options
from antiphase.models.loading_errors import loading_errors, quiet
from antiphase.models.placement import devices_text, input_device
from antiphase.models.quantization import (
    GGUF,
    Quantization,
    prepare_config,
    prepare_model,
    quantization_errors,
)
from antiphase.models.sources import Source, find_source
from antiphase.models.weights import check_finite
from antiphase.signal_spec import check_one_of


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be measured.

    Args:
        name: the name that the user gave.
        model: the model, in evaluation mode.
        tokenizer: the model's tokenizer.
        revision: the commit of the model on the hub, or the name and checksum of a GGUF file; None if it is unknown.
        quantization: how the weights of the checkpoint are quantised; None if they are not.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    revision: str | None
    quantization: Quantization | None = None

    @property
    def device(self) -> torch.device:
        """The device on which the input embeddings are applied. Token ids must be on this device."""
        return input_device(self.model)

    @property
    def devices(self) -> str:
        """All devices of the model as a text, such as `cuda:0 + cuda:1 + cpu (offloaded)`."""
        return devices_text(self.model)

    @property
    def dtype(self) -> str:
        """The name of the dtype of the input embeddings, such as `float32`."""
        return str(cast(Any, self.model).get_input_embeddings().weight.dtype).removeprefix("torch.")


def resolve_device(name: str) -> torch.device:
    """Return the torch device of a name. `auto` is cuda if it is available, else mps, else cpu.

    Raises:
        InvalidInputError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError(
            f"device {name!r} cannot be used here ({first_line(error)}). Try --device auto."
        ) from None
    return device


def _resolved(device_map: str | Mapping[str, int | str]) -> str | dict[str, Any]:
    """Return a device map in which the numbers of GPUs are replaced by the torch devices of this machine.

    Raises:
        InvalidInputError: this machine has no such device.
    """
    if isinstance(device_map, str):
        return device_map
    found: dict[str, Any] = {}
    for module, place in device_map.items():
        text = place if isinstance(place, str) else f"{resolve_device('auto').type}:{place}"
        # accelerate offloads a module only if its place is a text.
        found[module] = text if text in ("cpu", "disk") else resolve_device(text)
    return found


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    adapter: str | None = None,
    device_map: str | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer, and check the model. Only weights in safetensors and GGUF files are loaded.

    Args:
        name: a hub id, a local directory, the path of a GGUF file, or `demo`.
        dtype: a name in `DTYPES`; `auto` is float32 on the CPU and the checkpoint's own dtype elsewhere.
        device: `auto`, or any torch device.
        trust_remote_code: whether to run code that comes with the model.
        revision: a branch, tag or commit of the model on the hub.
        adapter: a local directory or a hub id of an adapter, such as LoRA, that is put on the model; None for no
            adapter.
        device_map: how the layers are spread over several devices, main memory and the disk, if the model is larger
            than one device: `auto`, `balanced`, `balanced_low_0`, `sequential`, or a JSON file; see `read_device_map`.
            None puts the whole model on `device`.

    Raises:
        ModelNotFoundError: there is no model of this name, its files cannot be loaded, or the adapter does not fit the
            model.
        UnsupportedModelError: the model is no causal LM, antiphase does not know its attention projections, or its
            quantised modules pass no gradient.
        NonFiniteError: a weight is NaN or infinite.
        InvalidInputError: the dtype or a device is unknown, or the device map does not fit the model.
        MissingExtraError: a package that reads the demo model, a GGUF file or an adapter is not installed.
        OutOfMemoryError: the weights do not fit into memory.
    """
    check_device_map(device, device_map)
    place = resolve_device(device)
    placement = {"": place} if device_map is None else _resolved(read_device_map(device_map))
    wanted = resolve_dtype(dtype) or (torch.float32 if place.type == "cpu" else "auto")
    source, options = find_source(name, adapter), {"trust_remote_code": trust_remote_code, "revision": revision}
    with loading_errors(name), quiet():
        tokenizer = _load_tokenizer(source, options)
        model, quantization = _load_weights(name, source, wanted, placement, options)
        if source.adapter is not None:
            add_adapter(name, model, source.adapter)
    find_attention(model)
    check_finite(model, name)
    commit = getattr(cast(Any, model).config, "_commit_hash", None)
    return LoadedModel(name, model, tokenizer, commit or source.revision(name), quantization)


def inspect_model(
    name: str, *, trust_remote_code: bool = False, revision: str | None = None, adapter: str | None = None
) -> tuple[nn.Module, Any]:
    """Return (the model without its weights, its tokenizer).

    This takes about a second. A model that cannot be measured is refused here, before its weights are loaded. The
    errors are those of `load_model`, except errors that need the weights or the device.
    """
    from transformers import AutoModelForCausalLM

    source, options = find_source(name, adapter), {"trust_remote_code": trust_remote_code, "revision": revision}
    with loading_errors(name), quiet():
        tokenizer = _load_tokenizer(source, options)
        config = _load_config(source, options)
        prepare_config(name, config)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    find_attention(skeleton)
    return skeleton, tokenizer


def resolve_dtype(name: str) -> torch.dtype | None:
    """Return the torch dtype of a name; None for `auto`.

    Raises:
        InvalidInputError: the name is not in `DTYPES`.
    """
    check_one_of("dtype", name, DTYPES)
    return None if name == "auto" else cast(torch.dtype, getattr(torch, name))


def _load_tokenizer(source: Source, options: Mapping[str, Any]) -> Any:
    """Load the tokenizer of a model."""
    from transformers import AutoTokenizer

    return cast(Any, AutoTokenizer).from_pretrained(source.tokenizer, **options, **source.options)


def _load_config(source: Source, options: Mapping[str, Any]) -> Any:
    """Load the configuration of a model."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source.place, **options, **source.options)


def _load_weights(
    name: str, source: Source, dtype: torch.dtype | str, placement: str | Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[nn.Module, Quantization | None]:
    """Load a model, without an adapter and in evaluation mode, and return (the model, how its weights are quantised).

    Args:
        name: the name of the model in messages.
        source: where the files of the model are.
        dtype: the dtype of the weights.
        placement: a device map; `{"": device}` puts the whole model on one device.
        options: further arguments of `from_pretrained`. The tokenizer is loaded with the same arguments.
    """
    from transformers import AutoModelForCausalLM

    config = _load_config(source, options)
    quantization = prepare_config(name, config)
    chosen: dict[str, Any] = {"use_safetensors": True}
    if source.gguf is not None:
        chosen = gguf_options()
        dtype = torch.bfloat16 if dtype == "auto" else dtype
    spread = isinstance(placement, str) or not isinstance(placement.get(""), torch.device)
    if spread or quantization is not None:
        chosen["device_map"] = placement
    with quantization_errors(name, quantization), contextlib.ExitStack() as cleaning:
        if spread:
            # transformers writes weights that are offloaded to disk to this folder, if it must convert them.
            chosen["offload_folder"] = tempfile.mkdtemp(prefix="antiphase-offload-")
            cleaning.callback(shutil.rmtree, chosen["offload_folder"], ignore_errors=True)
        model, info = AutoModelForCausalLM.from_pretrained(
            source.place, config=config, dtype=dtype, output_loading_info=True, **chosen, **options, **source.options
        )
        # The folder is removed with the model, or at once if the model cannot be loaded.
        weakref.finalize(model, cleaning.pop_all().close)
    _check_all_loaded(name, info["missing_keys"])
    if not isinstance(placement, str):
        check_covers(placement, [part for part, _ in model.named_modules()], model.state_dict())
    if quantization is None and not spread:
        model = model.to(cast("Mapping[str, Any]", placement)[""])
    elif quantization is not None:
        prepare_model(name, model, quantization)
    if source.gguf is not None:
        quantization = Quantization(GGUF.lower(), None, dequantized=True)
    return cast(nn.Module, model.eval()), quantization


def _check_all_loaded(name: str, missing: Collection[str]) -> None:
    """Raise ModelNotFoundError if the checkpoint lacks a weight of the model.

    transformers would fill the weight with random numbers.

    Args:
        name: the name of the model in messages.
        missing: the names of the weights that the checkpoint lacks.
    """
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelNotFoundError(
            f"the checkpoint {name!r} lacks the weight {min(missing)}{others}, so the model would have random weights."
        )
