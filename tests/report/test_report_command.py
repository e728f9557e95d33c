"""The command `antiphase report`: its flags, where it writes, and what it refuses."""

import contextlib

import pytest

from antiphase import cli
from report_cases import (
    copied,
    values_of,
)

FLAGS = {
    "report": {"runs", "--out", "--markers", "--forking-share"},
    "view": {"runs", "--port", "--no-browser", "--markers", "--forking-share"},
}


# The commands


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_frozen(command) -> None:
    (commands,) = (a for a in cli._parser()._actions if hasattr(a, "choices") and a.choices)
    actions = [a for a in commands.choices[command]._actions if "--help" not in a.option_strings]
    assert {a.option_strings[0] if a.option_strings else a.dest for a in actions} == FLAGS[command]


def test_the_command_writes_into_the_folder_or_elsewhere(runs, tmp_path, capsys) -> None:
    run = copied(runs / "again", tmp_path / "run")
    assert cli.main(["report", str(run)]) == 0
    printed = capsys.readouterr().out
    size = (run / "report.html").stat().st_size
    assert printed == f"written to {run / 'report.html'} ({size / 1e6:.1f} MB)\n"
    out = tmp_path / "new" / "two.html"
    words = ["report", f"a={run}", str(runs / "probe"), "--out", str(out), "--markers", "wait, let", "--forking-share"]
    assert cli.main([*words, "0.1"]) == 0
    found = values_of(out)
    assert (found["markers"], found["forkingShare"]) == (["wait", "let"], 0.1)
    assert [subject["label"] for subject in found["subjects"]] == ["a", "mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{probe}", "--out", "{folder}"], "is a folder. Name a file"),
        (["{probe}", "--out", "{folder}/file/page.html"], "cannot write"),
        (["{probe}", "--out", "{folder}/" + "x" * 999], "cannot write"),
        (["{probe}", "{again}"], "needs a file to write to"),
        (["{probe}", "--forking-share", "0"], "forking_share must lie between 0 and 1; got 0"),
        (["{probe}", "--forking-share", "nan"], "forking_share must lie between 0 and 1; got nan"),
        (["{folder}/nowhere"], "does not exist"),
        (["x" * 5000], "does not exist"),
        ([], "the following arguments are required"),
        (["{probe}", "--port", "80"], "unrecognized arguments: --port 80"),
    ],
)
def test_bad_input_is_one_line(runs, tmp_path, capsys, words, message) -> None:
    (tmp_path / "file").write_text("mine")
    places = {"probe": runs / "probe", "again": runs / "again", "folder": tmp_path}
    status: object = None
    with contextlib.suppress(SystemExit):  # argparse
        status = cli.main(["report", *(word.format(**places) for word in words)])
    errors = capsys.readouterr().err
    assert status in (2, None)
    assert message in errors
    assert errors.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
