"""Commands of antiphase as users run them, for the parts that run them, and the model that they are run on."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kit import Part


def command(*words: object) -> list[str]:
    """A command of antiphase in a process of its own."""
    return [sys.executable, "-m", "antiphase", *map(str, words)]


def model_of(part: Part, folder: Path) -> str:
    """`demo`, converted once for all, or the folder of a random model."""
    from antiphase.models.demo import demo_model_path, embedded_gguf

    if embedded_gguf() is not None and not part.dry:
        with part.cell("convert") as row:
            row["model"] = Path(demo_model_path()).name
        return "demo"
    from shapes import byte_tokenizer, tiny_model

    tokenizer = byte_tokenizer(300)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    tiny_model("llama", num_hidden_layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run(part: Part, words: list[str], row: dict[str, Any]) -> None:
    """Run a command to its end; raise with its last words where it fails."""
    start = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=max(part.left, 1))
    row["seconds"] = round(time.monotonic() - start, 1)
    if done.returncode:
        row["output"] = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{words[3]} ended with {done.returncode}")
