"""Writes the model card of a finished training run: TRL's own card, then the results and the settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from antiphase.models.demo import DEMO, HUB_ID
from antiphase.training.recipe import Recipe


def write_card(trainer: Any, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    """Write the model card as `README.md` into the run's folder.

    Args:
        trainer: the trainer, after its training.
        recipe: the run's recipe.
        summary: the content of summary.json.
    """
    folder = Path(trainer.args.output_dir)
    trainer.create_model_card(model_name=folder.name)
    path = folder / "README.md"
    text = f"# {folder.name}"
    if path.is_file():
        text = named(path.read_text(encoding="utf-8").rstrip(), str(recipe.options.model), trainer.args.output_dir)
    path.write_text("\n\n".join([text, *_sections(recipe, summary)]) + "\n", encoding="utf-8")


def named(text: str, model: str, folder: str) -> str:
    """Return the text of TRL's card with the names of the base model and of the trained model filled in.

    TRL writes `None` for a base model that is a local folder, and for a trained model that is not on the hub.

    Args:
        text: TRL's card.
        model: name of the base model.
        folder: folder of the trained model.
    """
    link = f"[{HUB_ID}](https://huggingface.co/{HUB_ID}) (its Q4_1 weights)" if model == DEMO else f"`{model}`"
    text = text.replace("[None](https://huggingface.co/None)", link)
    return text.replace('model="None"', f"model={json.dumps(folder, ensure_ascii=False)}")


def _sections(recipe: Recipe, summary: Mapping[str, Any]) -> list[str]:
    given = {key: value for key, value in recipe.given.items() if not key.endswith("_token")}
    settings = yaml.safe_dump(given, sort_keys=True, allow_unicode=True).strip()
    return [
        "## What was measured",
        _table(summary),
        "Accuracies are fractions. pass@1 is measured on completions that are sampled at the training temperature; "
        "its 95 % bootstrap interval over problems stands in brackets. Inversion is ι = −ρ(entropy, gradient "
        "strength) of the training rollouts. For numbers of training rollouts, the start is the mean over the first "
        "tenth of the run, and the end is the mean over the last tenth.",
        "## Settings",
        _method(recipe),
        f"```yaml\n{settings}\n```",
    ]


def _method(recipe: Recipe) -> str:
    config, preset = recipe.config, recipe.preset
    inversion = (
        f"CorR-PO (arXiv 2605.17770): `{config.inversion_combine}`, λ = {config.inversion_weight:g}, over "
        f"{config.inversion_unit}s{_steps(config)}{_segment(config)}, estimator `{config.inversion_estimator}`, "
        f"control `{config.inversion_control}`. The paper's λ is not known; this one is our choice."
        if config.inversion_weight
        else "λ = 0: inversion was measured, but it was not part of the reward."
    )
    if preset is None:
        return inversion
    return f"{inversion}\n\nBase method `{preset.name}` ({preset.source}). Deviations: {preset.deviations}"


def _segment(config: Any) -> str:
    return "" if config.inversion_segment == "all" else f" of the {config.inversion_segment} alone"


def _steps(config: Any) -> str:
    if config.inversion_unit != "step":
        return ""
    return f" (`{config.inversion_splitter}`, strength `{config.inversion_step_strength}`)"


def _table(summary: Mapping[str, Any]) -> str:
    lines = ["| | start | end |", "|---|---|---|"]
    for label, pair in summary["change"].items():
        start, end = ("–" if value is None else f"{value:.3f}" for value in pair)
        if label == "heldout/pass@1":
            spans = [f" [{row[f'{label}_low']:.3f}, {row[f'{label}_high']:.3f}]" for row in summary["heldout"]]
            start, end = start + spans[0], end + spans[1]
        lines.append(f"| {label} | {start} | {end} |")
    return "\n".join(lines)
