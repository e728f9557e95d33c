"""Where the time of a training step goes, what measuring inversion adds to it, and to its memory, beside plain GRPO.

Each case trains on a few batches in a process of its own: plain GRPO, then CorR-PO with an estimator. There are three
settings. `sums` is the recipe of recipes/smollm2-sums: a model of 135M parameters that writes about 13 tokens. `long`
is a small Llama with random weights that writes 512 tokens, and `short` is the same with 128 tokens. The share of
measuring is taken within one run, so that a busy machine slows all parts alike. On a CPU, the seconds are CPU time of
the process. Peak memory is the most that the process (or its GPU) held while it trained.

The cases `twice` train twice on every batch (num_iterations 2), so GRPO needs the log-probabilities of the policy
that sampled it. In `own twice shared` they come from the measurement (share_logprobs).

    python benchmarks/training.py [--settings sums,long] [--cases grpo,own] [--batches 2] [--out benchmarks/results]

Writes OUT/training-DEVICE.json: for each setting a row per case. On one free core, the default takes about 7 minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from antiphase.inversion.step_times import OF_A_STEP, PREFIX
from rows import device_name, peak_mib, spread, write

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "smollm2-sums" / "recipe.yaml"
# Case → changes to the recipe; `full` measures a few tokens of each rollout, since each costs a backward pass.
GRPO = {"inversion_weight": "0", "preset": "dapo"}
TWICE = {"inversion_estimator": "own", "num_iterations": "2"}
CASES = {
    "grpo": GRPO,
    "own": {"inversion_estimator": "own"},
    "last": {"inversion_estimator": "last"},
    "full:4": {"inversion_estimator": "full", "inversion_targets_per_rollout": "4", "inversion_min_tokens": "3"},
    "grpo twice": {**GRPO, "num_iterations": "2"},
    "own twice": TWICE,
    "own twice shared": {**TWICE, "share_logprobs": "true"},
}
PLAIN = ("grpo", "grpo twice")
# The small model of the settings `long` and `short`, and what its training changes in the recipe.
SMALL = {
    "vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 1024,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LONG = {
    "per_device_train_batch_size": "8", "gradient_accumulation_steps": "1",
    "num_generations": "8",
}  # fmt: skip
LENGTHS = {"long": "512", "short": "128"}


def small_model(folder: Path) -> Path:
    """Save a small Llama with random weights, whose tokenizer has one token per byte, and return its folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    with torch.no_grad():
        # Rows of larger weights give a distribution that is not uniform. The end token is not sampled.
        model.lm_head.weight.mul_(3.0)
        model.lm_head.weight[2] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_case(setting: str, case: str, model: str, batches: int) -> dict[str, object]:
    """Train one case here. Return the seconds of each part by step, without those of the first batch, and the peak."""
    from antiphase.data.prompt_rendering import end_token_ids
    from antiphase.tasks.pool import VerifierPool
    from antiphase.training import inputs, train
    from antiphase.training.recipe import parse_recipe
    from antiphase.training.reward_names import reward_function
    from antiphase.training.step_clock import StepTimes, TimedTrainer
    from antiphase.training.trajectory import read_times

    class Plain(TimedTrainer):
        """TRL's trainer with a clock."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(StepTimes(self))

        def know_tags(self, tags):
            pass

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        changes = dict(CASES[case])
        if setting in LENGTHS:
            changes |= {**LONG, "max_completion_length": LENGTHS[setting]}
        # The first batch warms up.
        updates = int(changes.get("num_iterations", 1))
        chosen = str(small_model(path / "model")) if setting in LENGTHS else model
        words = ["--config", str(RECIPE), "--model", chosen, "--out", str(path / "run"), "--eval_problems", "0"]
        words += ["--max_steps", str(updates * (batches + 1)), "--save_strategy", "no", "--logging_steps", "1"]
        recipe = parse_recipe(words + [word for key, value in changes.items() for word in (f"--{key}", value)])
        tokenizer, _ = inputs.load_tokenizer(recipe)
        problems, _ = inputs.draw_problems(recipe)
        table = inputs.table_of(recipe, tokenizer, problems)
        ends = [] if setting in LENGTHS else end_token_ids(recipe.options.end_tokens, tokenizer)
        if case in PLAIN:
            train.CorRPOTrainer = Plain
        with VerifierPool() as pool:
            reward = reward_function("accuracy", pool, recipe.config.seed)
            trainer = train._trainer(recipe, [reward], table, tokenizer, ends, "2026-01-01T00:00:00")
            if not torch.cuda.is_available():
                trainer.clock.now = time.process_time
            trainer.clock.start()
            held = _held()
            growth = peak_mib(trainer.train)
        times = [row for row in read_times(path / "run") if row["num_steps"]]
        logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    return {
        "times": [{part: row[PREFIX + part] for part in OF_A_STEP} for row in times[updates:]],
        "length": sum(entry["completions/mean_length"] for entry in logs) / len(logs),
        "peak_mib": held + growth,
    }


def _held() -> float:
    """Return how much memory the process or its GPU holds now, in MiB."""
    held = torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    return held / 2**20


def row_of(setting: str, case: str, found: dict, plain: dict | None) -> dict[str, object]:
    """Return the row of a case.

    Args:
        setting, case: the names of the setting and the case.
        found: what `train_case` returned for the case.
        plain: what it returned for plain GRPO with as many updates on a batch; None if that was not run.
    """
    steps = [sum(times.values()) for times in found["times"]]
    row = {"setting": setting, "case": case, "device": device_name(), "dtype": "float32", "steps": len(steps)}
    row |= {"completion_tokens": found["length"], **spread(steps, "step_seconds")}
    for part in OF_A_STEP:
        seconds = [times[part] for times in found["times"]]
        row |= {f"{part}_seconds_mean": sum(seconds) / len(seconds), **spread(seconds, f"{part}_seconds")}
    # With two updates on a batch, only every second step measures, so shares are of all steps together.
    measuring = sum(times["measuring"] for times in found["times"])
    row |= {"measuring_share": measuring / sum(steps)}
    row |= {"peak_mib": found["peak_mib"], "step_over_grpo": None, "peak_over_grpo": None}
    if plain is not None:
        before = sum(sum(times.values()) for times in plain["times"]) / len(plain["times"])
        row["step_over_grpo"] = sum(steps) / len(steps) / before
        row["peak_over_grpo"] = found["peak_mib"] / plain["peak_mib"]
    return row


def line_of(row: dict[str, object]) -> str:
    """Return a row as a line of text: the seconds of the parts of a mean step, and what it is beside plain GRPO."""
    parts = ", ".join(f"{part} {row[f'{part}_seconds_mean']:.2f}" for part in OF_A_STEP)
    beside = ""
    if row["step_over_grpo"] is not None:
        beside = f"; beside GRPO: step {row['step_over_grpo']:.2f}×, peak {row['peak_over_grpo']:.3f}×"
    return (
        f"{row['setting']}, {row['case']}: step {row['step_seconds_p50']:.2f} s ({parts}), measuring "
        f"{row['measuring_share']:.1%}, peak {row['peak_mib']:.0f} MiB{beside}"
    )


def training_rows(settings: list[str], cases: list[str], model: str, batches: int) -> list[dict[str, object]]:
    """Return the rows of all settings and cases, and print each of them. Each case runs in a process of its own.

    Args:
        settings, cases: names of settings and cases. A case is compared with plain GRPO if that stands before it.
        model: the model of the setting `sums`.
        batches: the number of generation batches that are timed, after one that warms up.
    """
    rows = []
    for setting in settings:
        found: dict[str, dict] = {}
        for case in cases:
            command = [sys.executable, "-W", "ignore", __file__, "--case", case, "--settings", setting]
            command += ["--model", model, "--batches", str(batches)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{setting}, {case}:\n{done.stderr[-3000:]}")
            found[case] = json.loads(done.stdout.strip().splitlines()[-1])
            plain = "grpo twice" if "twice" in case else "grpo"
            rows.append(row_of(setting, case, found[case], found.get(plain)))
            print(line_of(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default="sums,long")
    parser.add_argument("--cases", default="grpo,own", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--model", default="demo", help="the model of the setting `sums`")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(train_case(options.settings, options.case, options.model, options.batches)))
        return
    rows = training_rows(options.settings.split(","), options.cases.split(","), options.model, options.batches)
    slug = "-".join(device_name().lower().split()) if torch.cuda.is_available() else "cpu"
    path = options.out / f"training-{slug}.json"
    write(path, rows, model=options.model, recipe=str(RECIPE.relative_to(ROOT)))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
