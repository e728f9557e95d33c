"""Trainings with checkpoints for the tests of `probe --checkpoints`."""

from transformers import Trainer, TrainingArguments

from conftest import byte_tokenizer, tiny_model

OPTIONS = {"num_prompts": 4, "max_new_tokens": 40, "batch_size": 2, "num_resamples": 20, "min_steps": 3}
QUIET = {"figures": False, "report": False, "progress": False}


def trained(folder, model, steps: int = 4, save: int = 2) -> None:
    """A trainer's output folder, as `Trainer` leaves it."""
    from datasets import Dataset

    ids = [
        byte_tokenizer()(text).input_ids[:12] for text in ("One two. Three.", "four five. Six", "abc abc. Abc d") * 4
    ]
    rows = Dataset.from_list([{"input_ids": row, "labels": row, "attention_mask": [1] * len(row)} for row in ids])
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-3, report_to="none",
        use_cpu=True, save_steps=save, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=byte_tokenizer())
    trainer.train()
    trainer.save_model()


def saved(folder, model=None, tokenizer=None):
    (model or tiny_model()).save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder
