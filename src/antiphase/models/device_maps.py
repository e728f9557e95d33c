"""Read device maps, which say on which device each layer of a model is. This module imports no torch."""

import importlib.util
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from antiphase.errors import InvalidInputError, MissingExtraError

# The device maps that transformers computes from the sizes of the layers and the free memory of the devices.
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def read_device_map(text: str) -> str | dict[str, int | str]:
    """Return the device map that the user's option names: on which device each part of a model is placed.

    Args:
        text: a name in `DEVICE_MAPS`, or the path of a JSON file that maps the names of modules to devices, such as
            `{"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu"}`. A device is the number of a GPU,
            the name of a torch device, or `disk`. If the file also names a GPU, the weights of modules on `cpu` stay
            in main memory and are loaded to a GPU for each call.

    Raises:
        InvalidInputError: there is no such file, or it contains no device map.
    """
    if text in DEVICE_MAPS:
        return text
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8"))
    except OSError:
        raise InvalidInputError(
            f"device_map must be {', '.join(DEVICE_MAPS)} or a JSON file; got {text!r}, and no such file can be read."
        ) from None
    except ValueError as error:
        raise InvalidInputError(f"the device map {text!r} is no valid JSON ({error}).") from None
    if not isinstance(found, dict) or not found or any(type(place) not in (int, str) for place in found.values()):
        raise InvalidInputError(
            f"the device map {text!r} must map the names of modules to devices, as in "
            '{"model.embed_tokens": 0, "model.layers.0": "cpu"}.'
        )
    return cast("dict[str, int | str]", found)


def check_device_map(device: str, device_map: str | None) -> None:
    """Check that a device map can be used: it is readable, `device` is `auto`, and accelerate is installed.

    Args:
        device: the option `device`.
        device_map: the option `device_map`; None if there is no device map, and nothing to check.

    Raises:
        InvalidInputError: the device map cannot be read, or `device` is not `auto`.
        MissingExtraError: accelerate is not installed.
    """
    if device_map is None:
        return
    if device != "auto":
        raise InvalidInputError(
            f"name a device ({device!r}) or a device map ({device_map!r}), not both: a device map names the devices."
        )
    read_device_map(device_map)
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("accelerate", "demo", "a device map")


def check_covers(device_map: Mapping[str, Any], modules: Collection[str], weights: Iterable[str]) -> None:
    """Raise InvalidInputError unless a device map fits a model.

    The map must name only modules of the model, and must place every weight on a device.

    Args:
        device_map: a mapping from the name of a module to its device. The name of the whole model is the empty text.
        modules: the names of all modules of the model.
        weights: the names of all weights of the model.
    """
    unknown = [name for name in device_map if name not in modules]
    if unknown:
        raise InvalidInputError(
            f"the device map names {unknown[0]!r}, which is no module of this model. Its modules are called "
            f"{', '.join(repr(name) for name in list(modules)[1:4])} and so on."
        )
    for weight in weights:
        if not any(not name or weight.startswith(f"{name}.") for name in device_map):
            raise InvalidInputError(f"the device map gives no place to the weight {weight!r} of this model.")
