"""Sentence splitters on reasoning texts: ours and the libraries', against cuts made by hand, and their speed.

Three ways to use a library: on the whole text; on each line, so that a line break always cuts; and `within` our rules,
where it decides about . ! ? and ours are the formulas, code, lists, headings, tags, CJK and line breaks.

    pip install blingfire pysbd segtok sentencex syntok numpy
    python benchmarks/sentences.py [--speed TEXT_FILE] [--out benchmarks/results]

Writes OUT/sentences.json: F1 of the cuts by set (see tests/data/NOTICE.md), texts cut exactly as by hand, and the
fastest of five runs on the speed text (its first 100,000 characters; else the labelled texts, repeated).
"""

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

from antiphase.steps.sentences import sentence_starts
from antiphase.steps.spans import protected_spans

DATA = Path(__file__).parents[1] / "tests" / "data" / "sentences.jsonl"
SETS = ("trap", "excerpt", "held-out")
LIBRARIES = ("blingfire", "pysbd", "segtok", "sentencex", "syntok")
Starts = Callable[[str], Iterable[int]]


def library(name: str) -> Starts:
    if name == "blingfire":
        import blingfire

        return lambda text: [start for start, _ in blingfire.text_to_sentences_and_offsets(text)[1]]
    if name == "pysbd":
        import pysbd

        segmenter = pysbd.Segmenter(language="en", clean=False, char_span=True)
        return lambda text: [sentence.start for sentence in segmenter.segment(text)]
    if name == "segtok":
        from segtok.segmenter import split_multi

        return lambda text: located(text, split_multi(text))
    if name == "sentencex":
        import sentencex

        return lambda text: located(text, sentencex.segment("en", text))
    import syntok.segmenter

    return lambda text: [words[0].offset for block in syntok.segmenter.process(text) for words in block]


def located(text: str, sentences: Iterable[str]) -> list[int]:
    starts, place = [], 0
    for sentence in map(str.strip, sentences):
        found = text.find(sentence, place) if sentence else -1
        if found >= 0:
            starts.append(found)
            place = found + len(sentence)
    return starts


def by_line(starts: Starts) -> Starts:
    def run(text: str) -> list[int]:
        places, place = [], 0
        for line in text.split("\n"):
            if line.strip():
                places += [place, *(place + start for start in starts(line))]
            place += len(line) + 1
        return places

    return run


def within(starts: Starts) -> Starts:
    def run(text: str) -> list[int]:
        masked = text
        for begin, end in protected_spans(text):
            masked = masked[:begin] + "x" * (end - begin) + masked[end:]
        ends = cleaned(text, by_line(starts)(masked))
        with patch("antiphase.steps.sentences.ends_sentence", lambda *places: places[-1] in ends):
            return sentence_starts(text)

    return run


def cleaned(text: str, starts: Iterable[int]) -> set[int]:
    """The cuts at characters that are no space, without the beginning of the text."""
    places = {len(text) - len(text[start:].lstrip()) for start in starts}
    return {place for place in places if text[:place].strip() and place < len(text)}


def scores(starts: Starts) -> dict[str, float | str]:
    counts = {name: [0, 0] for name in SETS}
    exact = texts = 0
    for line in DATA.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        parts = row["text"].split("‖")
        text = "".join(parts)
        true = {sum(map(len, parts[: number + 1])) for number in range(len(parts) - 1)}
        found = cleaned(text, starts(text))
        counts[row["set"]][0] += 2 * len(true & found)
        counts[row["set"]][1] += len(true) + len(found)
        exact, texts = exact + (true == found), texts + 1
    return {**{name: round(hits / both, 3) for name, (hits, both) in counts.items()}, "exact": f"{exact}/{texts}"}


def milliseconds(starts: Starts, text: str) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        starts(text)
        times.append(time.perf_counter() - begin)
    return round(1000 * min(times), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    labelled = [json.loads(line)["text"].replace("‖", "") for line in DATA.read_text(encoding="utf-8").splitlines()]
    speed = options.speed.read_text(encoding="utf-8") if options.speed else "\n\n".join(labelled) * 10
    speed = speed[:100_000]
    ways = {"ours": sentence_starts}
    for name in LIBRARIES:
        ways |= {name: library(name), f"{name}, by line": by_line(library(name))}
        ways[f"{name}, within our rules"] = within(library(name))
    rows = []
    for name, starts in ways.items():
        rows.append({"splitter": name, **scores(starts), "ms": milliseconds(starts, speed)})
        print(*rows[-1].values(), flush=True)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"num_characters": len(speed), "machine": platform.machine(), "versions": versions, "rows": rows}
    (options.out / "sentences.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
