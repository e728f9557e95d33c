"""What is checked before TRL is imported says what the whole parser says, and passes over what it cannot know."""

import pytest

from antiphase.errors import InvalidInputError
from antiphase.training.own_checks import check_command, check_recipe
from antiphase.training.recipe import parse_recipe

PLAIN = ["--model", "x", "--tasks", "sums", "--out", "nowhere"]


@pytest.mark.parametrize(
    "words",
    [
        ["--preset", "dapoo"],
        [*PLAIN, "--num_problems", "many"],
        [*PLAIN, "--num-problems", "0"],
        [*PLAIN, "--eval_problems", "-1"],
        [*PLAIN, "--chat_template", "perhaps"],
        [*PLAIN, "--prompt_template", "text"],
        [*PLAIN, "--reward_funcs"],
        [*PLAIN, "--reward_funcs", "format", "format"],
        [*PLAIN, "--model_name_or_path", "y"],
        ["--tasks", "sums", "--out", "x"],
        ["--model", "x", "--out", "x"],
        ["--model", "x", "--tasks", "sums"],
        ["recipe.yaml", *PLAIN],
    ],
)
def test_same_words(words: list[str]) -> None:
    with pytest.raises(InvalidInputError) as early:
        check_command(words)
    with pytest.raises(InvalidInputError) as late:
        parse_recipe(words)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("content", ["- a", "a: [", "model: [a, b]", "num_problems: soon", "preset: dapoo"])
def test_same_words_of_a_file(content: str, tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    words = ["--tasks", "sums", "--out", "x", "--config", str(path)]
    with pytest.raises(InvalidInputError) as early:
        check_command(words)
    with pytest.raises(InvalidInputError) as late:
        parse_recipe(words)
    assert str(early.value) == str(late.value)


def test_flags_of_the_host_are_passed_over(tmp_path) -> None:
    flags = ["--learning_rate", "1e-5", "--report_to", "none", "--use_peft", "--max_steps", "-1", "--no_such", "x"]
    check_command([*PLAIN, *flags, "--no_chat_template", "--end_tokens", "\n", ";"])
    path = tmp_path / "recipe.yaml"
    path.write_text("model: x\ntasks: sums\nlearning_rate: 1e-5\noutput_dir: nowhere\nno_such: 1\n")
    check_command(["--config", str(path)])
    check_command(["--help"])


def test_a_folder_is_not_looked_at_in_a_dry_run(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    words = ["--model", "x", "--tasks", "sums", "--out", str(tmp_path)]
    check_command([*words, "--dry-run"])
    with pytest.raises(InvalidInputError, match="not an empty folder"):
        check_command(words)
    with pytest.raises(InvalidInputError, match="not the folder of a training run"):
        check_command([*words, "--resume"])
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="is finished"):
        check_command([*words, "--resume"])


def test_recipes_in_memory() -> None:
    plain = {"model": "x", "tasks": ["sums"], "output_dir": "x"}
    check_recipe({**plain, "learning_rate": 1e-5, "preset": "dapo+corr-po"})
    for key, value, message in (
        ("preset", "dapoo", "Did you mean 'dapo'"),
        ("eval_samples", 0, "at least 1"),
        ("eval_samples", "x", "eval_samples: 'x' is no valid value"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            check_recipe({**plain, key: value})
