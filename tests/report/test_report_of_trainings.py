"""Reports of training runs in their folders: finished, cut, damaged, and several seeds on one page."""

import json
from pathlib import Path

import pytest

from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.report.sources import NothingFinishedError, read_run
from antiphase.report.writing import write_report
from evaluation_cases import TASK
from report_cases import copied, full_for, summary_of, values_of
from training_cases import flags

training = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture(scope="module")
def trained(model_dir, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("train") / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("antiphase.page.html.Path.replace", full_for("report.html"))
        over = {"inversion_unit": "token", "inversion_combine": "sum"}  # 12 letters hold no five sentences
        with pytest.warns(UserWarning, match=r"cannot write .*report\.html.*No space left.*The results are complete"):
            status = cli.main(["train", *flags(model_dir, out, max_steps=2, eval_problems=2, **over)])
    assert status == 0
    return out


class TestTraining:
    pytestmark = training

    def test_a_page_that_finds_no_room_does_not_lose_the_run(self, trained) -> None:
        assert not (trained / "report.html").exists()
        assert summary_of(trained)["num_steps"] == 2
        assert (trained / "model.safetensors").is_file()
        assert not list(trained.glob(".*.tmp"))

    def test_a_run_is_its_trajectory(self, trained) -> None:
        found = values_of(write_report(trained))
        (run,) = found["trainings"]
        rows = [json.loads(line) for line in (trained / "trajectory.jsonl").read_text().splitlines()]
        steps = [row for row in rows if row["kind"] == "step"]
        assert run["step"]["step"] == [0, 1]
        assert run["step"]["inversion/mean"] == [row["inversion/mean"] for row in steps]
        assert run["eval"]["heldout/pass@1"] == [row["heldout/pass@1"] for row in rows if row["kind"] == "eval"]
        assert run["label"] == "trained"
        facts = dict(read_run(trained).runs[0].facts)
        assert facts["tasks"] == TASK

    def test_training_writes_its_page(self, model_dir, tmp_path) -> None:
        out = tmp_path / "run"
        assert cli.main(["train", *flags(model_dir, out, max_steps=1, eval_problems=0)]) == 0
        assert values_of(out / "report.html")["trainings"][0]["step"]["step"] == [0]
        # It is the page that the command makes.
        assert (
            values_of(write_report(out, tmp_path / "again.html"))["trainings"]
            == values_of(out / "report.html")["trainings"]
        )

    def test_a_run_without_its_summary(self, trained, tmp_path) -> None:
        cut = copied(trained, tmp_path / "cut")
        (cut / "summary.json").unlink()
        with (cut / "trajectory.jsonl").open("a") as file:
            file.write('{"kind": "alarm", "step": 2, "inversion": 0.1}\n{"kind": "step", "st')
        document = read_run(cut)
        assert not document.runs[0].finished
        (training,) = document.trainings
        assert training.rows[-1]["kind"] == "alarm"
        assert document.notes == ["cut is unfinished: this is its trajectory up to step 2."]
        assert values_of(write_report(cut))["trainings"][0]["alarms"] == [2]
        # The recipe says what its seeds share; without it, the summary does.
        assert training.group == read_run(trained).trainings[0].group
        (cut / "trajectory.jsonl").write_text("")
        with pytest.raises(NothingFinishedError, match="no step of this training run"):
            read_run(cut)
        (cut / "trajectory.jsonl").unlink()
        with pytest.raises(NothingFinishedError, match="no step of this training run"):
            read_run(cut)

    def test_seeds_of_one_recipe_are_one_band(self, trained, tmp_path) -> None:
        for seed in (1, 2):
            other = copied(trained, tmp_path / f"seed-{seed}")
            recipe = json.loads((other / "recipe.json").read_text())
            (other / "recipe.json").write_text(json.dumps({**recipe, "seed": seed, "output_dir": str(other)}))
        seeds = [str(tmp_path / f"seed-{seed}") for seed in (1, 2)]
        found = values_of(write_report([str(trained), *seeds], tmp_path / "all.html"))["trainings"]
        assert len({run["group"] for run in found}) == 1
        assert [run["label"] for run in found] == ["trained", "seed-1", "seed-2"]
        found = values_of(write_report([f"g={','.join(seeds)}", f"h={trained}"], tmp_path / "g.html"))["trainings"]
        assert [(run["label"], run["group"] == "g") for run in found] == [("g #1", True), ("g #2", True), ("h", False)]
        found = values_of(write_report([f"g={tmp_path}/seed-*", str(trained)], tmp_path / "g.html"))["trainings"]
        assert [run["group"] == "g" for run in found] == [True, True, False]

    def test_folders_of_one_name_are_told_apart(self, trained, tmp_path) -> None:
        copied(trained, tmp_path / "trained")
        found = values_of(write_report([trained, tmp_path / "trained"], tmp_path / "two.html"))["trainings"]
        assert [run["label"] for run in found] == [str(trained), str(tmp_path / "trained")]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"kind": "step"}', "line 2: not a row"),
            ('{"step": 3}', "line 2: not a row"),
            ('{"kind": "step", "step": "3"}', "line 2: not a row"),
            ("{", "line 2: not JSON"),
            ('{"kind": "step", "step": 1, "x": "\udcff"}', "line 2: not JSON"),
        ],
    )
    def test_lines_that_are_no_rows(self, trained, tmp_path, line, message) -> None:
        cut = copied(trained, tmp_path / "cut")
        first = (cut / "trajectory.jsonl").read_text().splitlines()[0]
        text = f"{first}\n{line}\n{first}\n"
        (cut / "trajectory.jsonl").write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(InvalidInputError, match=message):
            read_run(cut)

    def test_a_summary_that_is_none(self, trained, tmp_path) -> None:
        cut = copied(trained, tmp_path / "cut")
        (cut / "summary.json").write_text("[]")
        with pytest.raises(InvalidInputError, match=r"summary\.json: expected a JSON object, got list"):
            read_run(cut)
