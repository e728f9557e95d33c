"""Models that a study makes: once each, and refused where cells of a model with other weights are stored."""

import json
import sys

import pytest

from antiphase.study.grid import Made
from antiphase.study.making import CellError, is_made, made_weights, make_model

CODE = """
import pathlib, sys
out, weights = pathlib.Path(sys.argv[1]), sys.argv[2]
(out / "stage-1").mkdir()
(out / "config.json").write_text("{}")
(out / "model.safetensors").write_bytes(weights.encode())
(out / "stage-1" / "model.safetensors").write_bytes(b"same")
"""


def made_of(tmp_path, weights):
    script = tmp_path / "make.py"
    script.write_text(CODE)
    return Made("tiny.s0", (sys.executable, str(script), "{out}", weights))


def store(out, cell, made):
    (out / "cells").mkdir(parents=True, exist_ok=True)
    (out / "cells" / f"{cell}.json").write_text(json.dumps({"cell": cell, "digest": "d"} | made))


def removed(out):
    (out / "models" / "tiny.s0" / "made.json").unlink()


def test_a_model_is_made_once_and_its_weights_are_known(tmp_path):
    made, out = made_of(tmp_path, "one"), tmp_path / "out"
    folder = make_model(made, out)
    assert is_made(made, out)
    digest = made_weights(made, out)
    assert len(digest) == 64
    (folder / "model.safetensors").write_bytes(b"changed by hand")
    make_model(made, out)
    assert (folder / "model.safetensors").read_bytes() == b"changed by hand"
    removed(out)
    store(out, "tiny.all.grpo.s0", {"made": {"name": "tiny.s0", "weights_sha256": digest}})
    make_model(made, out)
    assert made_weights(made, out) == digest


def test_other_weights_are_refused_while_cells_of_the_first_model_are_stored(tmp_path):
    out = tmp_path / "out"
    make_model(made_of(tmp_path, "one"), out)
    model = {"made": {"name": "tiny.s0", "weights_sha256": made_weights(made_of(tmp_path, "one"), out)}}
    store(out, "tiny.all.grpo.s0", model)
    removed(out)
    # Packed records count too.
    (out / "cells.jsonl").write_text(json.dumps({"cell": "tiny.all.dapo.s0", "digest": "d"} | model) + "\n")
    other = made_of(tmp_path, "two")
    for _ in range(2):
        with pytest.raises(CellError, match=r"tiny\.s0, which was made again, .* tiny\.all\.dapo\.s0 .* 1 more"):
            make_model(other, out)
        assert not is_made(other, out)
    (out / "cells.jsonl").unlink()
    (out / "cells" / "tiny.all.grpo.s0.json").unlink()
    make_model(other, out)
    assert is_made(other, out)


@pytest.mark.parametrize("made", [{}, {"made": None}, {"made": {"name": "other.s0", "weights_sha256": "x"}}])
def test_cells_without_a_digest_or_of_another_model_do_not_count(tmp_path, made):
    out = tmp_path / "out"
    store(out, "tiny.all.grpo.s0", made)
    make_model(made_of(tmp_path, "one"), out)
    assert is_made(made_of(tmp_path, "one"), out)


def test_made_by_an_earlier_version(tmp_path):
    made, out = made_of(tmp_path, "one"), tmp_path / "out"
    make_model(made, out)
    marker = out / "models" / "tiny.s0" / "made.json"
    content = json.loads(marker.read_text())
    del content["weights_sha256"]
    marker.write_text(json.dumps(content))
    assert is_made(made, out)
    assert made_weights(made, out) is None
