"""Make a tiny reasoning model from scratch: TRL's SFTTrainer on digit sums, followed by InversionCallback.

The model adds eight digits modulo 3. Its demonstrations mix direct answers (`A2`, right one time in three) with worked
ones (`<112132…>A2`: each digit with the running sum), so that the model can do both, and RL can teach it to prefer
reasoning. Problems of the task's test split are left out.

    python recipes/tiny/sft.py --out runs/tiny-sft --seed 0

With --sentences the worked ones go a sentence a digit (see sentences.py), and some of their sums are wrong.

Other sizes and sums: --hidden, --layers, --base, --digits, --direct. `--save-at 0,120` also keeps the model as it was
after so many steps, in stage-0 and stage-120. With --model, an existing model is trained in place of a new one. It
needs --sentences and a lower learning rate.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

import sentences
from antiphase import InversionCallback, ProbeSet
from antiphase.models.loading import LoadedModel, load_model
from antiphase.rollouts.sampling import Sampling, generate
from antiphase.tasks.problem import Problem, Task
from antiphase.tasks.registry import load_task

Found = dict[str, float]


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


def tiny_llama(
    tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, heads: int, spread: float
) -> LlamaForCausalLM:
    """0.33 M parameters with 96 and 3; `spread` is the deviation of the first weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=spread,
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


def made_demonstrations(options: argparse.Namespace, problems: Sequence[Problem]) -> list[dict[str, str]]:
    """As many as training takes; drawn anew each time, so that hardly two are alike."""
    draw = random.Random(options.seed)
    made = []
    for _ in range(options.steps * options.batch):
        problem = draw.choice(problems)
        if draw.random() < options.direct:
            text = sentences.direct(problem.answer) if options.sentences else f"A{problem.answer}"
        elif options.sentences:
            text = sentences.worked(problem.prompt, options.base, options.slip, options.aside, draw)
        else:
            text = worked(problem.prompt, options.base)
        made.append({"prompt": problem.prompt, "completion": text})
    return made


def accuracy(model, tokenizer, task: Task, problems: Sequence[Problem], opening: str, sampling: Sampling) -> Found:
    """Accuracy of sampled completions that reason, their share, and accuracy where reasoning is begun for the model.

    Args:
        opening: how every worked demonstration begins.
    """
    loaded = LoadedModel("tiny", model, tokenizer, None)

    def verdicts(begun: str, how: Sampling) -> list[tuple[str, bool]]:
        prompts = [tokenizer(problem.prompt + begun).input_ids for problem in problems]
        rollouts = generate(loaded, prompts, how, seeds=range(len(prompts)))
        texts = [begun + tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in rollouts]
        return [(text, task.verify(text, problem)) for text, problem in zip(texts, problems, strict=True)]

    sampled, greedy = verdicts("", sampling), verdicts(opening, replace(sampling, temperature=0.0))
    reasoned = [right for text, right in sampled if text.startswith(opening)]
    return {
        "accuracy": sum(right for _, right in sampled) / len(problems),
        "reasoned_share": len(reasoned) / len(problems),
        "reasoned_accuracy": sum(reasoned) / max(1, len(reasoned)),
        "greedy_reasoned_accuracy": sum(right for _, right in greedy) / len(problems),
    }


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-sft"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="hub id, directory or demo: train this model in place of a new one")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--spread", type=float, default=0.02, help="deviation of the first weights")
    parser.add_argument("--base", type=int, default=3)
    parser.add_argument("--digits", type=int, default=8)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--direct", type=float, default=0.6, help="share of demonstrations that answer without working"
    )
    parser.add_argument("--sentences", action="store_true", help="work a sentence a digit")
    parser.add_argument("--slip", type=float, default=0.03, help="with --sentences: share of sums that are wrong")
    parser.add_argument("--aside", type=float, default=0.1, help="with --sentences: asides for each digit")
    parser.add_argument("--probe-every", type=int, default=40, help="steps between two probes")
    parser.add_argument("--save-at", default="", help="steps with commas between them")
    parser.add_argument("--held-out", type=int, default=128, help="problems that the accuracy at the end is over")
    options = parser.parse_args()
    if options.model and not options.sentences:
        parser.error("--model needs --sentences: only these demonstrations are plain text")
    return options


def beginning(options: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model before its training, and its tokenizer."""
    if options.model:
        loaded = load_model(options.model)
        return loaded.model.requires_grad_(True), loaded.tokenizer
    tokenizer = sentences.word_tokenizer(options.base) if options.sentences else char_tokenizer()
    return tiny_llama(tokenizer, options.hidden, options.layers, options.heads, options.spread), tokenizer


def main() -> None:
    options = parsed()
    task_spec = f"digit_sum:base={options.base},num_digits={options.digits}"
    max_new_tokens, opening = 2 * options.digits + 8, "<"
    if options.sentences:
        task_spec += ",labels=true"
        max_new_tokens, opening = 11 * options.digits, f" {sentences.OPENING}"
    set_seed(options.seed)
    model, tokenizer = beginning(options)
    task = load_task(task_spec)
    number = min(8000, options.base**options.digits // 2) if options.sentences else None
    problems = task.problems("train", number, options.seed)
    held_out = task.problems("test", options.held_out, 0)
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            str(options.out),
            per_device_train_batch_size=options.batch,
            max_steps=options.steps,
            learning_rate=options.lr,
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
        train_dataset=Dataset.from_list(made_demonstrations(options, problems)),
        processing_class=tokenizer,
    )
    sampling = Sampling(max_new_tokens)
    # The inversion of the model's own rollouts on problems that it is not trained on.
    probe_set = ProbeSet.from_prompts(
        [problem.prompt for problem in held_out[:32]], tokenizer, sampling=sampling, template="{prompt}"
    )
    InversionCallback(options.probe_every, probe_set).attach(trainer)
    trainer.add_callback(SaveAt([int(step) for step in options.save_at.split(",") if step], options.out, tokenizer))
    trainer.train()
    trainer.save_model()
    found = accuracy(trainer.model, tokenizer, task, held_out, opening, sampling)
    (options.out / "sft.json").write_text(json.dumps(found) + "\n")
    print(f"on held-out problems: {', '.join(f'{name} {value:.2f}' for name, value in found.items())}")


if __name__ == "__main__":
    main()
