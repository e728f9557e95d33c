"""Make a tiny reasoning model from scratch: TRL's SFTTrainer on digit sums, followed by InversionCallback.

The model adds eight digits modulo 3. Its demonstrations mix direct answers (`A2`, right one time in three) with worked
ones (`<112132…>A2`: each digit with the running sum), so that the model can do both, and RL can teach it to prefer
reasoning. Problems of the task's test split are left out.

    python recipes/tiny/sft.py --out runs/tiny-sft --seed 0

Other sizes and sums: --hidden, --layers, --base, --digits. `--save-at 0,120` also keeps the model as it was after so
many steps, in stage-0 and stage-120.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from antiphase import InversionCallback, ProbeSet
from antiphase.generation import Sampling, generate
from antiphase.models.loading import LoadedModel
from antiphase.tasks.registry import load_task

DIRECT = 0.6  # share of demonstrations that answer without working
BATCH = 128


def char_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocab = {token: i for i, token in enumerate(["[PAD]", "[BOS]", "[EOS]", "[UNK]", *"0123456789=?<>A"])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="[BOS]",
        eos_token="[EOS]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        padding_side="left",
    )


def tiny_llama(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    """0.33 M parameters with 96 and 3."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def worked(prompt: str, base: int) -> str:
    """`<` each digit and the running sum `>A` answer."""
    total, steps = 0, ""
    for digit in map(int, prompt.removesuffix("=?")):
        total = (total + digit) % base
        steps += f"{digit}{total}"
    return f"<{steps}>A{total}"


class SaveAt(TrainerCallback):
    """Keeps the model as it was after some steps, in folders of its own."""

    def __init__(self, steps: list[int], out: Path, tokenizer) -> None:
        self.steps, self.out, self.tokenizer = steps, out, tokenizer

    def save(self, step: int, model) -> None:
        """Keep it, if this is one of the steps."""
        if step in self.steps:
            for thing in (model, self.tokenizer):
                thing.save_pretrained(self.out / f"stage-{step}")

    def on_train_begin(self, args, state, control, model=None, **_) -> None:
        """The model before any step."""
        self.save(0, model)

    def on_step_end(self, args, state, control, model=None, **_) -> None:
        """The model after a step."""
        self.save(state.global_step, model)


def accuracy(model, tokenizer, problems, max_new_tokens: int) -> tuple[float, float]:
    """Accuracy of sampled completions that reason, and their share."""
    prompts = [tokenizer(problem.prompt).input_ids for problem in problems]
    rollouts = generate(LoadedModel("tiny", model, tokenizer, None), prompts, Sampling(max_new_tokens), 0)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in rollouts]
    reasoned = [text.rpartition("A")[2] == p.answer for text, p in zip(texts, problems, strict=True) if "<" in text]
    return sum(reasoned) / max(1, len(reasoned)), len(reasoned) / len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-sft"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--base", type=int, default=3)
    parser.add_argument("--digits", type=int, default=8)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--save-at", default="", help="steps with commas between them")
    options = parser.parse_args()
    task_spec = f"digit_sum:base={options.base},num_digits={options.digits}"
    max_new_tokens = 2 * options.digits + 8
    set_seed(options.seed)
    draw = random.Random(options.seed)
    tokenizer = char_tokenizer()
    task = load_task(task_spec)
    problems = task.problems("train", None, options.seed)
    demonstrations = []
    for _ in range(options.steps * BATCH):
        problem = draw.choice(problems)
        text = f"A{problem.answer}" if draw.random() < DIRECT else worked(problem.prompt, options.base)
        demonstrations.append({"prompt": problem.prompt, "completion": text})
    held_out = task.problems("test", 128, 0)
    trainer = SFTTrainer(
        tiny_llama(tokenizer, options.hidden, options.layers),
        args=SFTConfig(
            str(options.out),
            per_device_train_batch_size=BATCH,
            max_steps=options.steps,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            adam_beta2=0.98,
            weight_decay=0.01,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            seed=options.seed,
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(demonstrations),
        processing_class=tokenizer,
    )
    # The inversion of the model's own rollouts on problems that it is not trained on.
    probe_set = ProbeSet.from_prompts(
        [problem.prompt for problem in held_out[:32]],
        tokenizer,
        sampling=Sampling(max_new_tokens),
        template="{prompt}",
    )
    InversionCallback(40, probe_set).attach(trainer)
    trainer.add_callback(SaveAt([int(step) for step in options.save_at.split(",") if step], options.out, tokenizer))
    trainer.train()
    trainer.save_model()
    right, share = accuracy(trainer.model, tokenizer, held_out, max_new_tokens)
    (options.out / "sft.json").write_text(json.dumps({"reasoned_accuracy": right, "reasoned_share": share}) + "\n")
    print(f"reasoned on {share:.0%} of held-out problems, {right:.0%} of those right")


if __name__ == "__main__":
    main()
