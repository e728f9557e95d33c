"""verl's FSDP 2 engine on two gloo processes: it measures ragged rollouts as `probe` does, and changes nothing."""

import json
import random
import subprocess
import sys

import pytest
import torch
from verl_cases import HERE, environment, needs_verl

from antiphase import probe

pytestmark = [needs_verl]


def launched(folder, model_dir, mode):
    words = [HERE / "engine_pass.py", model_dir, folder / "rollouts.jsonl", folder, mode]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2",
         "--master_port", str(random.randrange(20000, 40000)), *map(str, words)],
        env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


@pytest.fixture(scope="module")
def passes(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("engine")
    draw = random.Random(0)
    rows = [
        {
            "prompt_ids": [1] + [draw.randrange(3, 250) for _ in range(5)],
            "completion_ids": [draw.randrange(3, 250) for _ in range(length)],
            "marks": [1] * length,
        }
        for length in (40, 25, 9, 33, 12, 50)
    ]
    (folder / "rollouts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for mode in ("measure", "plain"):
        launched(folder, model_dir, mode)
    return folder, rows


def test_the_pass_equals_probe(passes, model_dir):
    folder, rows = passes
    facts = torch.cat([torch.load(folder / f"facts{rank}.pt") for rank in range(2)])
    given = [{key: row[key] for key in ("prompt_ids", "completion_ids")} for row in rows]
    seen = probe(str(model_dir), rollouts=given, estimators=("own",), unit="token", figures=False, report=False)
    assert len(facts) == len(rows)
    assert facts[:, 1].tolist() == pytest.approx(seen.rollouts["spearman_token"].tolist(), abs=1e-5)
    for column, name in ((3, "entropy"), (4, "strength")):
        means = seen.tokens.groupby("rollout_id", sort=False)[name].mean().tolist()
        assert facts[:, column].tolist() == pytest.approx(means, rel=1e-5)


def test_the_training_step_after_it_is_bitwise_that_without_it(passes):
    """`engine_pass.py` itself checks the gradients, the optimizer's state and the weights after the pass."""
    folder, _ = passes
    for rank in range(2):
        measured, plain = (torch.load(folder / f"weights-{mode}-{rank}.pt") for mode in ("measure", "plain"))
        assert all(torch.equal(a, b) for a, b in zip(measured, plain, strict=True))
