"""The verdict of the second study: how numbers become verdicts, what is missing, and the files."""

import json
import math

import pandas as pd
import pytest
import verdict
from emergence_findings import Value
from emergence_rows import ROWS, measurement
from finding import NOT_RUN, judged
from split_rows import made
from verdict_claims import findings, sft_changes


def difference(value, half, seeds=5):
    return {
        "difference": value, "low": value - half, "high": value + half, "minimum_detectable": 1.4 * half,
        "num_seeds_left": seeds, "num_seeds_right": seeds, "num_problems": 100,
    }  # fmt: skip


def store(folder, name, **rows):
    """Write what a sweep would have found: for each method, its differences from grpo."""
    entrants = [{"name": "grpo", "differences": {}}]
    entrants += [{"name": method.replace("_", "-"), "differences": found} for method, found in rows.items()]
    path = folder / f"results-{name}" / "tables" / "findings.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"groups": {"tasks": {"64x2 · mod3": {"entrants": entrants}}}}))


@pytest.mark.parametrize(
    ("value", "sign", "size", "verdict"),
    [
        (Value(-0.3, -0.4, -0.2, 0.1, 3, 12), -1, -0.137, "for"),
        (Value(0.3, 0.2, 0.4, 0.1, 3, 12), -1, -0.137, "against"),
        (Value(0.0, -0.1, 0.1, 0.1, 3, 12), -1, -0.137, "smaller than the paper's"),
        (Value(0.0, -0.2, 0.2, 0.1, 3, 12), -1, -0.137, "not enough data"),
        (Value(0.0, -0.1, 0.1, 0.1, 3, 12), 1, None, "not enough data"),
        (Value(0.02, 0.01, 0.03, 0.1, 5, 100), 1, 0.024, "for"),
        (Value(-0.02, -0.03, -0.01, 0.1, 5, 100), 1, 0.024, "against"),
        (Value(-0.3, -0.4, -0.2, 0.1, 1, 12), -1, -0.137, "for (one seed)"),
        (Value(-0.3, math.nan, math.nan, math.nan, 2, 1), -1, None, "not enough data"),
        (Value(math.nan, math.nan, math.nan, math.nan, 0, 0), -1, None, NOT_RUN),
    ],
)
def test_verdicts(value, sign, size, verdict):
    assert judged(value, sign, size) == verdict


def test_nothing_was_run(tmp_path):
    (tmp_path / "results-emergence" / "cells").mkdir(parents=True)
    found = findings(tmp_path, {})
    assert {one.verdict for one in found} == {NOT_RUN}
    assert {one.text for one in found} == {"—"}


def test_what_the_cells_say(tmp_path):
    cells = tmp_path / "results-emergence" / "cells"
    cells.mkdir(parents=True)
    for number, row in enumerate(ROWS):
        (cells / f"{number}.json").write_text(json.dumps(row))
    store(
        tmp_path, "tiny",
        base={"accuracy": difference(-0.3, 0.1), "inversion": difference(-0.2, 0.05)},
        corr_po={"accuracy": difference(0.05, 0.01), "inversion": difference(0.1, 0.02)},
        shuffled={"accuracy": difference(-0.05, 0.01)},
    )  # fmt: skip
    store(
        tmp_path, "tiny-layers", base={"accuracy": difference(-0.3, 0.1)},
        layer_9={"accuracy": difference(0.02, 0.01)}, all_layers={"accuracy": difference(0.0, 0.1)},
    )  # fmt: skip
    found = findings(tmp_path, {})
    layers = [one for one in found if "layer" in one.claim]
    assert [
        (" ".join(one.claim.split()[2:5]), one.scale.partition(",")[0], one.what, one.verdict) for one in layers
    ] == [
        ("from one layer", "a tiny model with 6 layers", "accuracy of layer-9 minus grpo", "for"),
        ("from all layers", "a tiny model with 6 layers", "accuracy of all-layers minus grpo", "not enough data"),
        ("from one layer", "SmolLM2-135M", "accuracy", NOT_RUN),
    ]
    by_what = {one.what: one for one in found}
    sentence = by_what["change of ρ by sentence on held-out reasoning texts after 25 steps"]
    assert (sentence.value, sentence.scale) == (pytest.approx(-0.3), "SmolLM2-135M; 2 seeds, 2 texts")
    gain = by_what["accuracy of corr-po minus grpo"]
    assert (gain.text, gain.power, gain.verdict) == ("+5.0 [+4.0, +6.0] points", "1.4 points", "for")
    assert gain.scale == "tiny models, 64x2 · mod3; 5 seeds"
    assert by_what["accuracy of shuffled minus grpo"].verdict == "against"
    # The inversion is −ρ: GRPO raises it by 0.2 above the base, and so lowers ρ.
    moved = by_what["ρ by sentence after grpo, minus before"]
    assert (moved.value, moved.low, moved.verdict) == (pytest.approx(-0.2), pytest.approx(-0.25), "for")
    further = by_what["ρ by sentence of corr-po minus grpo"]
    assert (further.value, further.low, further.high) == pytest.approx((-0.1, -0.12, -0.08))
    level = by_what["ρ by sentence on own rollouts"]
    assert (level.scale, level.verdict) == ("SmolLM2-135M; 2 seeds, 4 texts", "not enough data")
    link = by_what["rank correlation of entropy and the token's logit; its range over 9 checkpoints and texts"]
    assert (link.value, link.low, link.verdict) == (pytest.approx((3 * -0.5 + 6 * -0.75) / 9), -0.75, "for")
    what = "on held-out reasoning texts after 25 steps of SFT on reasoning, minus that after SFT on base"
    cause = by_what[f"ρ by sentence {what}"]
    assert (cause.value, cause.verdict) == (pytest.approx((-0.5 - 0.4 - 0.3 - 0.4) / 4), "for (one seed)")
    assert by_what[f"ρ by type {what}"].verdict == NOT_RUN


def test_the_longer_training_stands_beside_the_shorter_one(tmp_path):
    for name, rows in (("emergence", ROWS), ("emergence-long", [ROWS[0], measurement(
        "reasoning", 0, 1000, reasoning=[-0.6, None, -0.4, -0.8], rollouts=[0.1, 0.3, 0.5, 0.3]
    )])):  # fmt: skip
        (tmp_path / f"results-{name}" / "cells").mkdir(parents=True)
        for number, row in enumerate(rows):
            (tmp_path / f"results-{name}" / "cells" / f"{number}.json").write_text(json.dumps(row))
    found = findings(tmp_path, {})
    longer = [one for one in found if "1000 steps" in one.what and one.what.startswith("change of ρ by sentence on")]
    assert [(one.value, one.scale) for one in longer] == [
        (0.0, "SmolLM2-135M, on a GPU; 1 seed, 4 texts"),
        (pytest.approx(-0.8), "SmolLM2-135M, on a GPU; 1 seed, 3 texts"),
    ]
    claims = [one.claim for one in found]
    assert claims == sorted(claims, key=list(dict.fromkeys(claims)).index)
    drawn = sft_changes(tmp_path)
    assert sorted(drawn) == [
        "base\n25 steps, 1 seed, 3 texts",
        "reasoning\n1000 steps, 1 seed, 3 texts, GPU",
        "reasoning\n25 steps, 2 seeds, 2 texts",
    ]


def test_corr_po_is_compared_with_its_control_on_the_seeds_of_both(tmp_path):
    (tmp_path / "results-emergence" / "cells").mkdir(parents=True)

    def varied(rows, correct):
        """Problems differ a little, and their mean is as given."""
        return correct + 0.02 * (rows.problem.str[1:].astype(int) - 5.5) / 5.5

    rows = pd.concat(
        [
            made(method="grpo")[lambda rows: rows.seed == 2].assign(correct=0.0),
            made(method="shuffled").assign(correct=lambda rows: 1.0 - varied(rows, 0.5) + 0.1 * rows.seed),
            made(coupling=0.1, method="corr-po")[lambda rows: rows.seed < 2].assign(
                correct=lambda rows: varied(rows, 0.75) + 0.1 * rows.seed
            ),
            made(method="layer-0")[lambda rows: rows.seed < 2].assign(
                correct=lambda rows: varied(rows, 0.25) + 0.1 * rows.seed
            ),
        ]
    ).assign(group="smollm2-135m")
    found = {one.what: one for one in findings(tmp_path, {"tiny": pd.DataFrame(), "smollm2": rows})}
    solved = found["accuracy of corr-po minus shuffled"]
    assert (solved.value, solved.scale, solved.verdict) == (
        pytest.approx(0.25),
        "SmolLM2-135M; 2 seeds",
        "for",
    )
    assert found["ρ by sentence of corr-po minus shuffled"].value == pytest.approx(-0.1)
    layer = found["accuracy of corr-po minus layer-0"]
    assert layer.value == pytest.approx(0.5)


def test_the_files(tmp_path):
    (tmp_path / "results-emergence" / "cells").mkdir(parents=True)
    store(tmp_path, "tiny", corr_po={"accuracy": difference(0.05, 0.01)}, base={"accuracy": difference(0.0, 0.2)})
    text = verdict.write_verdict(tmp_path)
    assert text == (tmp_path / "verdict.md").read_text()
    assert "| +5.0 [+4.0, +6.0] points |" in text
    header, row = (
        line
        for line in text.split("\n")
        if line.startswith(("| claim | for |", "| CorR-PO solves more than GRPO | 1"))
    )
    assert header == "| claim | for | not run yet | of these, with one seed |"
    assert row == "| CorR-PO solves more than GRPO | 1 | 2 | – |"
    assert "+2.4 (Qwen2.5-Math-7B), +0.0 (Qwen3-4B), −1.5 (Qwen3-1.7B)" in text
    first = (tmp_path / "figures" / "verdict.png").read_bytes()
    verdict.write_verdict(tmp_path)
    assert first[:4] == b"\x89PNG"
    assert first == (tmp_path / "figures" / "verdict.png").read_bytes()


def test_the_split_of_the_gain(tmp_path, monkeypatch):
    (tmp_path / "results-emergence" / "cells").mkdir(parents=True)
    rows = pd.concat([made(), made(coupling=0.07, method="corr-po")]).assign(group="64x2 · mod3", correct=1.0)
    monkeypatch.setattr(
        verdict, "rollouts_of", lambda study, results: rows if results.name == "results-tiny" else pd.DataFrame()
    )
    text = verdict.write_verdict(tmp_path)
    line = next(line for line in text.split("\n") if line.startswith("| tiny models, 64x2 · mod3 | corr-po |"))
    gain, by_entropy, by_length, rest = line.split(" | ")[2:]
    assert gain.startswith("+0.070")
    assert rest.startswith("+0.070")
    assert (by_entropy[:6], by_length[:6]) == ("+0.000", "+0.000")
