"""Write the facts about a model as notes: which layers cannot be measured, and how its weights are quantised.

The console, the page and the model card show these notes. This module imports no torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

# The ways of quantising whose names are written in capitals.
_ACRONYMS: Final = ("gguf", "gptq", "awq", "fp8")


def model_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the notes on the facts about a model; an empty list if there is nothing to note.

    Args:
        facts: the facts about a model, or an entry of `results` in a summary. Only the keys `left_out` and
            `quantization` are read; both may be missing.
    """
    return [note for note in (layers_note(facts), quantization_note(facts)) if note is not None]


def quantization_label(method: str, bits: int | None) -> str:
    """Return the name of a quantisation method as messages show it, such as `GPTQ (4 bit)`.

    Args:
        method: the entry `quant_method` of a model's configuration, or `gguf`.
        bits: the number of bits of a weight; None if it is not known.

    >>> quantization_label("gptq", 4), quantization_label("bitsandbytes", None)
    ('GPTQ (4 bit)', 'bitsandbytes')
    """
    name = method.upper() if method in _ACRONYMS else method
    return name if bits is None else f"{name} ({bits} bit)"


def quantization_note(facts: Mapping[str, Any]) -> str | None:
    """Return a note that says how the weights of a model are quantised; None if they are not.

    Args:
        facts: the facts about the model. Its entry `quantization` is a mapping with the keys `method` and, if they are
            known, `bits` and `dequantized`. If the weights are not quantised, the entry is missing or None.

    >>> quantization_note({"quantization": {"method": "bitsandbytes", "bits": 4, "dequantized": False}})
    'the weights are quantised with bitsandbytes (4 bit), and they are measured as they are.'
    """
    found = facts.get("quantization")
    if not found:
        return None
    how = {True: ", and they are dequantised for the measurement", False: ", and they are measured as they are"}
    label = quantization_label(str(found["method"]), found.get("bits"))
    return f"the weights are quantised with {label}{how.get(found.get('dequantized'), '')}."


def layers_note(result: Mapping[str, Any]) -> str | None:
    """Return a note that names the layers and projections of a model that cannot be measured; None if all can be.

    Args:
        result: a mapping. Its entry `left_out` is the result of `architecture.left_out`, or is missing.
    """
    found = result.get("left_out")
    if found is None:
        return None
    texts, total = [], found["num_layers"]
    kinds = found["without_attention"]
    if kinds:
        num = sum(map(len, kinds.values()))
        listed = "; ".join(f"{kind}: {ranges(numbers)}" for kind, numbers in kinds.items())
        texts.append(
            f"{total - num} of {total} layers have softmax attention and can be measured; {num} have none ({listed})"
        )
    absent = found["without_projection"]
    reusing = absent.get("K", [])
    joined = [number for number in absent.get("V", []) if number not in reusing]
    if reusing:
        texts.append(f"layers that use the keys and values of earlier layers have only Q and O: {ranges(reusing)}")
    if joined:
        texts.append(f"layers where one weight makes keys and values have it as K, and no V: {ranges(joined)}")
    return f"{'; '.join(texts)}."


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending whole numbers as a text, in which consecutive numbers are written as a range.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    groups: list[list[int]] = []
    for number in numbers:
        if groups and groups[-1][-1] + 1 == number:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)
