"""The tiny thinking models in training: what TRL samples, and the options that their tests share."""

from antiphase.training.train import train
from antiphase.training.trainer import CorRPOTrainer
from thinking_cases import DATED, QWEN3, R1, STRICT, save_thinking_model
from training_cases import flags

TASK = "chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=1"
QUIET = {"progress": False, "figures": False, "report": False}


def saved_models(folder):
    """Save one model for each template; returns their folders by name."""
    cases = {"qwen3": QWEN3, "r1": R1, "dated": DATED, "strict": STRICT}
    return {name: save_thinking_model(folder / name, template) for name, template in cases.items()}


def trained_batches(monkeypatch, model, out, *words, **changes):
    """Train for two steps. Returns every prompt and completion that the host sampled, and its end tokens."""
    seen, ends = [], set()
    generate = CorRPOTrainer._generate

    def watched(self, prompts):
        output = generate(self, prompts)
        seen.extend(zip(map(tuple, output[0]), map(tuple, output[1]), strict=True))
        ends.update(self.eos_token_ids)
        return output

    options = {"tasks": TASK, "max_steps": 2, "inversion_unit": "token", "data_seed": 0, **changes}
    with monkeypatch.context() as patch:
        patch.setattr(CorRPOTrainer, "_generate", watched)
        result = train([*flags(model, out, **options), *words])
    return seen, ends, result
