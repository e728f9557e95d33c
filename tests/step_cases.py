"""Tokenizers of every common kind, built in process, and what the tests of steps share."""

import json
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import byte_tokenizer

DATA = Path(__file__).parent / "data" / "sentences.jsonl"
CUT = "‖"
TEXTS = (
    "Pi is 3.14, e.g. in Fig. 2. So what? Then we add: 1,000.5 + 2 = 1,002.5!\n\n1. First, double it.\n2. Then halve.",
    "<think>\nOkay, so \\( x = 1. y \\) holds. Wait...  is it?\n</think>\n\nThe answer is **5**. 😀 Done! Naïve.",
    "今天是3.5元。对吗？是的！\n「行く？」と言った。それから帰った。👩‍👩‍👧 ok. Итак, готово. यह सही है। अब",
    "Run it:\n```python\nx = 1.\n\ny = 2. Z\n```\nIt prints \\[ a. B \\] twice. Costs $5. And $6 more.",
)


def labelled(name: str) -> list[tuple[str, list[int]]]:
    """The texts of a set, and where steps begin in them by hand."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    return [unmarked(row["text"]) for row in rows if row["set"] == name]


def unmarked(text: str) -> tuple[str, list[int]]:
    """A text without its marks, and where they stood."""
    plain, starts = "", []
    for part in text.split(CUT):
        starts.append(len(plain))
        plain += part
    return plain, starts[1:]


def parts(text: str, starts: list[int]) -> list[str]:
    """The pieces of a text that is cut there."""
    return [text[begin:end] for begin, end in zip([0, *starts], [*starts, len(text)], strict=True)]


def _wrapped(inner: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer that was trained on `TEXTS`; `<end>` ends a completion in all of them but the bytes."""
    if kind == "bytes":
        return byte_tokenizer()
    if kind == "byte-level BPE":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "unigram":
        inner = Tokenizer(models.Unigram([("<unk>", 0.0)], unk_id=0, byte_fallback=True))
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>", "<end>"], unk_token="<unk>", show_progress=False
        )
        inner.train_from_iterator(TEXTS[:2], trainer)
        pieces = json.loads(inner.to_str())["model"]["vocab"]
        known = [tuple(piece) for piece in pieces] + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
        inner = Tokenizer(models.Unigram(known, unk_id=0, byte_fallback=True))
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        # As in Llama: spaces, bytes, and no space in front of the first token.
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        inner.add_special_tokens(["<end>"])
        return _wrapped(inner, unk_token="<unk>", eos_token="<end>")
    elif kind == "wordpiece":
        inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.normalizer = normalizers.NFC()
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece(cleanup=True)
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "<end>"], show_progress=False)
    else:
        assert kind == "characters", kind
        inner = Tokenizer(models.WordLevel(unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        inner.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<end>"], show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    unknown = {"wordpiece": {"unk_token": "[UNK]"}, "characters": {"unk_token": "<unk>"}}.get(kind, {})
    return _wrapped(inner, eos_token="<end>", **unknown)


KINDS = ("bytes", "byte-level BPE", "unigram", "wordpiece", "characters")
