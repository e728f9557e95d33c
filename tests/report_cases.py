"""Runs for the tests of reports, and what these tests do with them and with their pages."""

import errno
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
from scipy import stats

import antiphase
from conftest import byte_tokenizer, tiny_model

PROBE = {"num_prompts": 3, "samples": 2, "max_new_tokens": 16, "batch_size": 2, "num_resamples": 20, "alternatives": 2}
PATTERN = [[1, 0], [0, 0], [1, 1]]
RESULTS = "results"


def probed(out, name="mine", **changes):
    options = {**PROBE, "figures": False, "progress": False, **changes}
    return antiphase.probe(tiny_model(), tokenizer=byte_tokenizer(), name=name, out=out, **options)


def full_for(name):
    """`Path.replace` on a disk that has no room for files of one name."""
    replace = Path.replace

    def full(self, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    return full


def values_of(path):
    """What a written page holds."""
    text = path.read_text(encoding="utf-8")
    start = text.index('<script type="application/json" id="values">')
    return json.loads(text[text.index(">", start) + 1 : text.index("</script>", start)])


def summary_of(path):
    return json.loads((path / "summary.json").read_text())


def copied(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint-*", "*.safetensors", "figures"))
    return target


def correlation(frame):
    return stats.spearmanr(frame.entropy, frame.strength, nan_policy="omit").statistic


def edit(path, change):
    value = json.loads(path.read_text())
    found = change(value)
    path.write_text(json.dumps(value if found is None else found))


def edit_table(path, change):
    table = change(pq.read_table(path).to_pandas())
    table.to_parquet(path)
