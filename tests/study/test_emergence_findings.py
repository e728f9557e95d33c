"""The findings of the study of emergence: levels, paired changes, intervals over seeds or texts, and the files."""

import copy
import json
import math

import emergence_findings
import numpy as np
import pandas as pd
import pytest
from emergence_findings import Cells
from emergence_report import write_findings
from emergence_rows import BEFORE, ROWS, measurement
from scipy.stats import spearmanr

from antiphase.statistics.paired import paired_difference


def expected(table):
    """The mean of a table of seeds and texts with its interval."""
    table = np.array(table)
    found = paired_difference(table, np.zeros_like(table), paired_seeds=True)
    return found.difference, found.low, found.high


def test_before_training_the_interval_is_over_texts_and_not_over_equal_seeds():
    found = Cells(ROWS).level("reasoning", 0, "reasoning")
    assert (found.value, found.num_seeds, found.num_texts) == (pytest.approx(0.2), 1, 3)
    assert found[:3] == pytest.approx(expected([[0.2, 0.4, 0.0]]))


def test_a_change_is_paired_by_text_and_its_interval_is_over_seeds_and_texts():
    found = Cells(ROWS).change("reasoning", 25, "reasoning")
    # The second text has no ρ before training, and the last one none with seed 1.
    table = [[-0.4, -0.3], [-0.2, -0.3]]
    assert found[:3] == pytest.approx(expected(table))
    assert (found.value, found.num_seeds, found.num_texts) == (pytest.approx(-0.3), 2, 2)
    assert found.high - found.low > 0.2


def test_rollouts_are_paired_with_those_of_the_same_seed():
    found = Cells(ROWS).change("reasoning", 25, "rollouts")
    assert found.value == pytest.approx((-0.4 - 0.3 - 0.2 - 0.2 - 0.2 - 0.2) / 6)


def test_one_seed_has_an_interval_over_texts():
    found = Cells(ROWS).change("base", 25, "reasoning")
    assert (found.num_seeds, found.num_texts) == (1, 3)
    assert found[:3] == pytest.approx(expected([[0.1, 0.0, 0.2]]))
    assert found.detectable > found.value - found.low


def test_one_text_has_no_interval_and_none_is_undefined():
    one = emergence_findings.value_of([[0.25, math.nan]])
    assert (str(one), math.isnan(one.low)) == ("not enough data (1 texts)", True)
    assert str(emergence_findings.value_of([[], [math.nan]])) == "undefined"
    assert emergence_findings.value_of([[]]).num_seeds == 0


def test_a_contrast_is_paired_by_seed_and_text():
    found = Cells(ROWS).contrast("reasoning", "base", 25, "reasoning")
    assert found.value == pytest.approx((-0.5 - 0.4 - 0.3 - 0.4) / 4)
    assert (found.num_seeds, found.num_texts) == (1, 4)
    assert Cells(ROWS).contrast("reasoning", "base", 25, "reasoning", "type").num_seeds == 0  # not measured


def test_the_last_step_is_the_last_of_those_with_the_most_seeds():
    later = [measurement(corpus, 0, 50, reasoning=BEFORE) for corpus in ("reasoning", "base")]
    cells = Cells([*ROWS, *later])
    assert cells.shown_steps("reasoning") == [25, 50]
    assert cells.shown_steps("base") == [50]
    assert cells.steps("reasoning") == [0, 25, 50]
    assert cells.last_step("reasoning") == 25
    assert cells.last_step("base") == 50
    assert cells.last_step("reasoning", "base") == 50  # The two share one seed at both steps.
    assert cells.last_step("reasoning", "prose") == 0
    assert cells.last_step("reasoning", estimator="full") == 0
    # Two corpora may share a step, and no seed of it.
    other = Cells(
        [*ROWS, measurement("base", 1, 50, reasoning=BEFORE), measurement("reasoning", 0, 50, reasoning=BEFORE)]
    )
    assert other.last_step("reasoning", "base") == 25


def test_levels_are_over_the_texts_that_have_all_of_them():
    plain, held = Cells(ROWS).levels("reasoning", 25, "reasoning", "step", ("none", "all"))
    # The first text lacks a ρ with everything held fixed, and the last one lacks any with seed 1.
    assert (plain.value, held.value) == pytest.approx(((-0.3 + 0.1 + 0.3 + 0.1) / 4, (-0.3 + 0.1 + 0.3 + 0.1) / 8))
    assert (plain.num_texts, held.num_texts) == (2, 2)


def test_few_texts_are_not_enough_data():
    assert str(emergence_findings.value_of([[0.1, 0.2, 0.3, 0.4, 0.5]])) == "not enough data (5 texts)"
    assert str(emergence_findings.value_of([[0.1, 0.2] * 3])).endswith("(6 texts)")


def test_the_files(tmp_path):
    (tmp_path / "cells").mkdir()
    for row in ROWS:
        cell = row["cell"]
        name = f"{cell['corpus']}.s{cell['seed']}.{cell['step']}.json"
        (tmp_path / "cells" / name).write_text(json.dumps(row))
    text = write_findings(tmp_path, 7)
    assert text == (tmp_path / "report.md").read_text()
    assert "Number of stored measurements: 5. The whole plan has 7." in text
    assert f"| reasoning | 25 | 2 | {Cells(ROWS).change('reasoning', 25, 'reasoning')} |" in text
    assert "| reasoning | 25 | 0.38 | 0.75 | 0.50 |" in text  # the mean of 0.25 and 0.5
    table = pd.read_csv(tmp_path / "tables" / "correlations.csv")
    row = table[(table.corpus == "base") & (table.step == 25) & (table.texts == "reasoning") & (table.given == "none")]
    assert row.change.item() == pytest.approx(0.1)
    chain = pd.read_csv(tmp_path / "tables" / "chain.csv")
    assert set(chain.kind) == {"chain"}
    assert set(chain["mean"]) == {-0.5, -0.75}
    assert "| entropy and the token's logit | − | −0.688 [−0.750, −0.500] |" in text
    contrasts = [Cells(ROWS).contrast("reasoning", "base", 25, texts) for texts in ("reasoning", "rollouts")]
    assert f"| base | 25 | sentence | {contrasts[0]} | {contrasts[1]} |" in text
    assert "hollow" not in text
    held = Cells(ROWS).levels("base", 25, "rollouts", "step", ("none", "all"))
    assert f"| base | 25 | own rollouts | sentence | {held[0]} | {held[1]} |" in text
    before = chain[(chain.step == 0) & (chain.corpus == "reasoning")].set_index("texts").num_seeds
    assert before.to_dict() == {"reasoning": 1, "rollouts": 2}
    first = (tmp_path / "figures" / "emergence.png").read_bytes()
    write_findings(tmp_path, 7)
    assert first[:4] == b"\x89PNG"
    assert first == (tmp_path / "figures" / "emergence.png").read_bytes()


def test_rho_and_mean_entropy_over_the_measured_models(tmp_path):
    """ρ falls as entropy rises, in five models of seed 0; seed 1 has too few models."""
    (tmp_path / "cells").mkdir()
    rows = []
    for number, (seed, entropy, mean) in enumerate(
        [(0, 1.0, 0.3), (0, 2.0, 0.1), (0, 4.0, -0.3), (0, 3.0, 0.0), (0, 0.5, 0.35), (1, 1.0, -0.9)]
    ):
        row = copy.deepcopy(measurement("reasoning", seed, 10 * number + 10, rollouts=BEFORE))
        row["entries"][0]["entropy_mean"] = entropy
        row["entries"][0]["units"]["step"]["within"]["none"]["mean"] = mean
        rows.append(row)
        (tmp_path / "cells" / f"{number}.json").write_text(json.dumps(row))
    cells = Cells(rows)
    assert cells.entropy_link("rollouts", [0]) == (pytest.approx(-1), 5)
    tied = spearmanr([1.0, 2.0, 4.0, 3.0, 0.5, 1.0], [0.3, 0.1, -0.3, 0.0, 0.35, -0.9]).statistic
    assert cells.entropy_link("rollouts", [0, 1]) == (pytest.approx(tied), 6)
    assert cells.entropy_link("rollouts", [1])[1] == 1
    assert math.isnan(cells.entropy_link("rollouts", [1])[0])
    text = write_findings(tmp_path, 7)
    assert "| the first seed | sentence | −1.000 (5) |" in text
    assert "| the other seeds |" not in text


def test_the_untrained_model_is_not_measured_yet(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text(json.dumps(ROWS[2]))
    text = write_findings(tmp_path, 7)
    assert "| reasoning | 25 | 0.25 |" in text
    assert "| reasoning | 0 |" not in text


def test_a_hollow_point_is_explained(tmp_path):
    (tmp_path / "cells").mkdir()
    later = measurement("reasoning", 0, 50, reasoning=BEFORE, rollouts=BEFORE)
    for number, row in enumerate([*ROWS, later]):
        (tmp_path / "cells" / f"{number}.json").write_text(json.dumps(row))
    assert "A hollow point has fewer seeds than others of its line." in write_findings(tmp_path, 7)


def test_no_training_yet(tmp_path):
    (tmp_path / "cells").mkdir()
    assert "No training has a measurement yet." in write_findings(tmp_path, 7)
    # A second family of models is measured without a training.
    (tmp_path / "cells" / "untrained.s0.0.json").write_text(json.dumps(ROWS[0]))
    text = write_findings(tmp_path, 7)
    assert f"| own rollouts | {Cells(ROWS[:1]).level('untrained', 0, 'rollouts')} |" in text
    assert "| entropy and the token's logit | − | −0.500 [−0.500, −0.500] | −0.500 [−0.500, −0.500] |" in text
    table = pd.read_csv(tmp_path / "tables" / "correlations.csv")
    assert set(table.corpus) == {"untrained"}
    assert not (tmp_path / "figures").exists()
