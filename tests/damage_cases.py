"""Ways to damage the folder of a run, and what `antiphase report` says of it then."""

import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from report_cases import RESULTS, edit, edit_table


def halve(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def break_text(path, column):
    """Make a string column of a Parquet file invalid UTF-8."""
    table = pq.read_table(path)
    values = pa.array([b"caf\xe9"] * len(table), pa.binary()).cast(pa.string(), safe=False)
    assert values.type == pa.string()
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, pa.field(column, pa.string()), values).replace_schema_metadata(None), path)


# What is done to the copy of a run, and what is said of it then.
DAMAGE = {
    "summary cut": ("probe", lambda f: halve(f / "summary.json"), "summary.json cannot be read"),
    "config cut": ("probe", lambda f: halve(f / "config.json"), "config.json cannot be read"),
    "config a list": ("probe", lambda f: (f / "config.json").write_text("[1]"), "expected a JSON object, got list"),
    "config a number": ("probe", lambda f: (f / "config.json").write_text("3"), "expected a JSON object, got int"),
    "config empty": ("probe", lambda f: (f / "config.json").write_text(""), "config.json cannot be read"),
    "config deep": ("probe", lambda f: (f / "config.json").write_text("[" * 99_999), "config.json cannot be read"),
    "config latin": (
        "probe",
        lambda f: (f / "config.json").write_bytes(b'{"a": "\xe9"}'),
        "config.json cannot be read",
    ),
    "config of another tool": ("probe", lambda f: (f / "config.json").write_text("{}"), "is not the folder of a run"),
    "format a list": (
        "probe",
        lambda f: edit(f / "config.json", lambda v: v.update(format=[])),
        "is not the folder of a run",
    ),
    "another version": (
        "probe",
        lambda f: edit(f / "config.json", lambda v: v.update(format_version=99)),
        "It says format 'antiphase-probe' and format_version 99.",
    ),
    "summary latin": (
        "eval",
        lambda f: (f / "summary.json").write_bytes(b'{"\xe9": 1}'),
        "summary.json cannot be read",
    ),
    "summary a list": ("eval", lambda f: (f / "summary.json").write_text("[]"), "expected a JSON object"),
    "summary deep": ("eval", lambda f: (f / "summary.json").write_text("[" * 99_999), "cannot be read|do not fit"),
    "no results": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v.pop(RESULTS) and None),
        "do not fit.*results",
    ),
    "results a number": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v.update(results=3)),
        "do not fit together",
    ),
    "results of texts": (
        "eval",
        lambda f: edit(f / "summary.json", lambda v: v.update(results=["a"])),
        "do not fit together",
    ),
    "config of the summary a list": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v.update(config=[])),
        "do not fit together",
    ),
    "minimum a text": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v["config"].update(min_tokens="many")),
        "do not fit together",
    ),
    "versions a list": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v.update(versions=[1])),
        "do not fit together",
    ),
    "ρ a text": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0]["spearman"].update(value="high")),
        "spearman must be a number, got 'high'",
    ),
    "ρ a list": (
        "eval",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0]["signals"].update(spearman=[1])),
        "do not fit together",
    ),
    "a count of none": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0].pop("num_tokens") and None),
        "num_tokens must be a number, got None",
    ),
    "layers a text": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0].update(layers=["x"])),
        "do not fit together",
    ),
    "tokens cut": ("probe", lambda f: halve(f / "tokens.parquet"), "tokens.parquet cannot be read"),
    "rollouts cut": ("eval", lambda f: halve(f / "rollouts.parquet"), "rollouts.parquet cannot be read"),
    "steps cut": ("probe", lambda f: halve(f / "steps.parquet"), "steps.parquet cannot be read"),
    "steps of another run": (
        "probe",
        lambda f: edit_table(f / "steps.parquet", lambda t: t.assign(num_tokens=t.num_tokens + 1)),
        "the steps do not cover its rollouts from the first token to the last",
    ),
    "no start": (
        "eval",
        lambda f: edit_table(f / "steps.parquet", lambda t: t.drop(columns="start")),
        "do not fit together.*start",
    ),
    "ρ by step a text": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0]["units"]["step"].update(value="high")),
        "units step must be a number, got 'high'",
    ),
    "units a list": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0].update(units=[1])),
        "do not fit together",
    ),
    "a headline of nothing": (
        "eval",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0]["signals"].update(headline="word")),
        "headline must be one of type, token, step, got 'word'",
    ),
    "a chain without its series": (
        "probe",
        lambda f: edit(f / "summary.json", lambda v: v[RESULTS][0]["chain"][0].pop("x") and None),
        "do not fit together",
    ),
    "alternatives cut": ("probe", lambda f: halve(f / "alternatives.parquet"), "alternatives.parquet cannot be read"),
    "tokens gone": ("probe", lambda f: (f / "tokens.parquet").unlink(), "tokens.parquet cannot be read"),
    "tokens of another run": (
        "probe",
        lambda f: shutil.copy(f.parent / "other.parquet", f / "tokens.parquet"),
        "do not match",
    ),
    "no strength": (
        "probe",
        lambda f: edit_table(f / "tokens.parquet", lambda t: t.drop(columns="strength")),
        "do not fit together.*strength",
    ),
    "no model": (
        "eval",
        lambda f: edit_table(f / "rollouts.parquet", lambda t: t.drop(columns="model")),
        "do not fit together.*model",
    ),
    "no prompt": (
        "probe",
        lambda f: edit_table(f / "rollouts.parquet", lambda t: t.drop(columns="prompt")),
        "do not fit together.*prompt",
    ),
    "no rank": (
        "probe",
        lambda f: edit_table(f / "alternatives.parquet", lambda t: t.drop(columns="rank")),
        "do not fit together.*rank",
    ),
    "entropy of texts": (
        "probe",
        lambda f: edit_table(f / "tokens.parquet", lambda t: t.assign(entropy="high")),
        "do not fit together",
    ),
    "ρ of texts": (
        "probe",
        lambda f: edit_table(f / "rollouts.parquet", lambda t: t.assign(spearman="x")),
        "do not fit together",
    ),
    "tokens of nothing": (
        "probe",
        lambda f: edit_table(f / "tokens.parquet", lambda t: t.assign(token=None)),
        "do not fit together",
    ),
    "rollouts twice": (
        "probe",
        lambda f: edit_table(f / "rollouts.parquet", lambda t: pd.concat([t, t])),
        "two rollouts share an id",
    ),
    "part cut": (
        "cut probe",
        lambda f: halve(next(f.glob("parts/*/*.tokens.parquet"))),
        "parts cannot be read",
    ),
    "no model.json": (
        "cut probe",
        lambda f: next(f.glob("parts/*/model.json")).unlink(),
        "model.json cannot be read",
    ),
    "config without models": (
        "cut probe",
        lambda f: edit(f / "config.json", lambda v: v["config"].pop("models") and None),
        "do not fit together.*models",
    ),
    "config of other models": (
        "cut probe",
        lambda f: edit(f / "config.json", lambda v: v["config"].update(models=["x"])),
        "its batches belong to models that config.json does not name",
    ),
    "config of another type": (
        "cut probe",
        lambda f: edit(f / "config.json", lambda v: v["config"].update(num_resamples="many")),
        "do not fit together",
    ),
    "no identities": (
        "cut eval",
        lambda f: edit(f / "config.json", lambda v: v["config"].pop("identities") and None),
        "do not fit together.*identities",
    ),
    "comparison cut": ("compare", lambda f: halve(f / "comparison.json"), "comparison.json cannot be read"),
    "comparison of nothing": (
        "compare",
        lambda f: (f / "comparison.json").write_text("{}"),
        "do not fit together.*tasks",
    ),
    "comparison of texts": (
        "compare",
        lambda f: edit(f / "comparison.json", lambda v: v.update(tasks={"t": "x"})),
        "do not fit together",
    ),
    "a row that is a list": ("training", lambda f: None, "line 2: not a row of a trajectory"),
    "a recipe that is a list": (
        "training",
        lambda f: (f / "recipe.json").write_text("[]"),
        "recipe.json: expected a JSON object, got list",
    ),
    "settings that are a list": (
        "training",
        lambda f: (
            (f / "recipe.json").unlink(),
            (f / "trajectory.jsonl").write_text('{"kind": "step", "step": 1}\n'),
            (f / "summary.json").write_text('{"config": []}'),
        ),
        "do not fit together",
    ),
    "copied in part": ("probe", lambda f: (f / "config.json").unlink(), "but not the config.json or trajectory.jsonl"),
}
BROKEN_TEXT = ["token", "prompt", "completion", "rollout_id", "model"]
