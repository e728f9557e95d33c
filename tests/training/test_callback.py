"""`InversionCallback` in any trainer: its rows, the numbers of a probe, resuming, bad input, sharded models."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerState, TrainingArguments

import antiphase
import training_cases as cases
from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.rollouts.sampling import Sampling
from antiphase.signals.measure import token_signals
from antiphase.training.callback import InversionCallback
from antiphase.training.probe_set import ProbeSet, probe_policy
from antiphase.training.trajectory import Trajectory, read_trajectory
from antiphase.types import SignalSpec, TokenBatch
from conftest import byte_tokenizer, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def causal_rows(tokenizer):
    rows = []
    for text in ("hello there you", "some other words", "one two three four", "abc abc abc abc") * 2:
        ids = tokenizer(text).input_ids[:15]
        rows.append({"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)})
    return Dataset.from_list(rows)


def lossy(trainer):
    """The log lines of the trainer itself."""
    return [entry for entry in trainer.state.log_history if "probe/spearman" not in entry]


class TestCallback:
    def trainer(self, folder, **changes):
        arguments = TrainingArguments(
            str(folder), max_steps=4, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none",
            use_cpu=True, logging_steps=1, save_strategy="no", disable_tqdm=True, **changes,
        )  # fmt: skip
        return Trainer(tiny_model(), arguments, train_dataset=causal_rows(byte_tokenizer()))

    def probe_set(self, **changes):
        sampling = Sampling(max_new_tokens=12)
        return ProbeSet.from_prompts(["hello", "abc", "some"], byte_tokenizer(), sampling=sampling, **changes)

    @pytest.mark.parametrize("attached", [True, False])
    def test_any_trainer(self, tmp_path, attached):
        plain = self.trainer(tmp_path / "plain")
        plain.train()
        trainer = self.trainer(tmp_path / "followed")
        callback = InversionCallback(2, self.probe_set(samples=2), num_resamples=20)
        callback.attach(trainer) if attached else trainer.add_callback(callback)
        trainer.train()
        rows = read_trajectory(tmp_path / "followed")
        assert [row["step"] for row in rows] == [0, 2, 4]
        assert all(row["kind"] == "probe" for row in rows)
        for row in rows:
            assert row["probe/spearman_low"] <= row["probe/spearman"] <= row["probe/spearman_high"]
            assert row["probe/inversion"] == -row["probe/spearman"]
            assert row["probe/unit"] == "type"
            for end in ("", "_low", "_high"):
                assert row[f"probe/spearman{end}"] == row[f"probe/spearman_type{end}"]
            # Twelve random letters hold too few sentences for a ρ of their own, and enough letters for one.
            assert row["probe/undefined_step"] == 1 > row["probe/undefined_token"]
        for before, after in zip(plain.state.log_history, lossy(trainer), strict=True):
            assert before.get("loss") == after.get("loss")
        logged = [entry for entry in trainer.state.log_history if "probe/spearman" in entry]
        assert [entry["step"] for entry in logged] == [0, 2, 4]
        for left, right in zip(plain.model.parameters(), trainer.model.parameters(), strict=True):
            assert torch.equal(left, right)

    def test_numbers_are_those_of_probe(self, tmp_path):
        """The last row against an independent measurement of the trained model on the same tokens."""
        completions = ["xyz xyz xyz abc", "one two three four five"]
        given = ProbeSet.from_rollouts(["hello", "abc"], completions, byte_tokenizer(), template="{prompt}")
        trainer = self.trainer(tmp_path)
        InversionCallback(3, given, num_resamples=20).attach(trainer)
        trainer.train()
        row = read_trajectory(tmp_path)[-1]
        tokenizer = byte_tokenizer()
        assert row["probe/unit"] == "type"
        batch = TokenBatch.from_ids(
            [tokenizer(p).input_ids for p in ("hello", "abc")], [tokenizer(c).input_ids for c in completions]
        )
        signals = token_signals(trainer.model, batch)
        from scipy import stats

        chosen = batch.completion_mask
        rho = stats.spearmanr(signals.entropy[chosen], signals.strength[chosen]).statistic
        assert row["probe/spearman_token"] == pytest.approx(rho, abs=1e-9)
        kinds = batch.input_ids[chosen].unique()
        means = [
            [float(series[chosen][batch.input_ids[chosen] == kind].double().mean()) for kind in kinds]
            for series in (signals.entropy, signals.strength)
        ]
        assert row["probe/spearman"] == pytest.approx(stats.spearmanr(*means).statistic, abs=1e-9)
        assert row["probe/rollouts"] == "given"
        assert row["probe/num_tokens"] == int(chosen.sum())

    def test_resume_continues_its_rows(self, tmp_path):
        Trajectory(tmp_path).append("probe", 0, {})
        Trajectory(tmp_path).append("probe", 8, {})
        assert [row["step"] for row in Trajectory(tmp_path).begin(4)] == [0]

    @pytest.mark.parametrize("how", ["constructor", "attached", "twice"])
    def test_beside_the_trainers_own_trajectory(self, tmp_path, how):
        first, second = (InversionCallback(1, self.probe_set(), num_resamples=5) for _ in range(2))
        extra = {"callbacks": [first]} if how == "constructor" else {}
        trainer = cases.run(tmp_path, train=False, max_steps=2, extra=extra)
        if how != "constructor":
            first.attach(trainer)
        if how == "twice":
            second.attach(trainer)
        trainer.train()
        steps = [row["step"] for row in read_trajectory(tmp_path) if row["kind"] == "probe"]
        assert steps == ([0, 0, 1, 1, 2, 2] if how == "twice" else [0, 1, 2])
        assert [row["step"] for row in read_trajectory(tmp_path) if row["kind"] == "step"] == [0, 1]
        assert not list(tmp_path.glob("trajectory-*"))
        assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2]

    def test_bad_input(self, tmp_path):
        tokenizer = byte_tokenizer()
        with pytest.raises(InvalidInputError, match="empty"):
            ProbeSet.from_prompts([], tokenizer)
        with pytest.raises(InvalidInputError, match="got 1 prompts and 2 completions"):
            ProbeSet.from_rollouts(["a"], ["b", "c"], tokenizer)
        with pytest.raises(InvalidInputError, match="completion 0 has no tokens"):
            ProbeSet.from_rollouts(["a"], [""], tokenizer)
        with pytest.raises(InvalidInputError, match="every_n_steps"):
            InversionCallback(0, self.probe_set())
        for option, value in (("splitter", "page"), ("min_steps", 2)):
            with pytest.raises(InvalidInputError, match=option):
                InversionCallback(2, self.probe_set(), **{option: value})

    def test_every_unit_is_that_of_a_probe(self, tmp_path):
        """On the same rollouts, with the same options, the row has the numbers of `antiphase probe`."""
        texts = ["One two. Three four! Five? Six seven. Eight.", "A b c. D e. F g h. I. J k l m n. O p."] * 2
        prompts = ["hello", "abc", "some", "more"]
        given = ProbeSet.from_rollouts(prompts, texts, byte_tokenizer(), template="{prompt}")
        options = {"unit": "step", "splitter": "sentence", "step_strength": "joint", "min_tokens": 6, "min_steps": 4}
        row = probe_policy(tiny_model(), given, SignalSpec(), num_resamples=50, **options)
        rollouts = [
            {"prompt_id": str(i), "prompt_ids": list(given.prompt_ids[i]), "completion_ids": list(ids)}
            for i, ids in enumerate(given.completion_ids)
        ]
        found = antiphase.probe(
            tiny_model(), tokenizer=byte_tokenizer(), rollouts=rollouts, num_resamples=50, progress=False, **options
        ).result()
        for unit, entry in found["units"].items():
            for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                assert row[f"probe/spearman_{unit}{end}"] == pytest.approx(entry[key], abs=1e-6), (unit, key)
            assert row[f"probe/undefined_{unit}"] == entry["num_undefined"] / 4
        assert row["probe/spearman"] == row["probe/spearman_step"]
        assert row["probe/spearman_within"] == pytest.approx(found["units"]["step"]["within"]["value"], abs=1e-6)
        assert row["probe/num_steps"] == found["units"]["step"]["num_items"]

    def test_short_probe_sets_are_undefined(self):
        given = ProbeSet.from_rollouts(["hello"], ["ab"], byte_tokenizer())
        row = probe_policy(tiny_model(), given, SignalSpec(), num_resamples=10)
        assert math.isnan(row["probe/spearman"])
        assert row["probe/undefined"] == 1

    def test_sharded_models_must_be_attached(self, tmp_path):
        model = tiny_model()
        model.model.layers[0].mlp.up_proj.weight.data = torch.empty(0)
        callback = InversionCallback(2, self.probe_set())
        with pytest.raises(UnsupportedModelError, match="attach"):
            callback._measure(TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(), None, model)
