"""Model families: layers that share keys and values, gates, hybrids and experts, against their definitions."""

import json

import pytest
import torch
from test_estimators import relative_error
from test_joint import steps_of
from transformers import AutoConfig, AutoModelForCausalLM

import antiphase
from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.models.architecture import find_attention, find_layers, left_out
from antiphase.models.fact_notes import layers_note
from antiphase.signals import prefix
from antiphase.signals.measure import token_signals
from antiphase.types import SignalSpec, TokenBatch
from conftest import _BASE, byte_tokenizer, pure_double, shaken, tiny_model
from docs_pages import DOCS
from model_families import DEFINITION, FAMILIES, family_batch, family_model, finding, plain, table

SHARING = "Gemma 4, small (reused keys and values)"
ONE_WEIGHT = "Gemma 4, large (`k_eq_v`)"
EXPERTS = ("Qwen3-MoE", "Mixtral", "OLMoE")


def needs_int32_indices() -> None:
    """Skip the test where `scatter` of PyTorch takes only int64 indices, so Qwen4-Exp cannot run."""
    try:
        torch.zeros(2).scatter(0, torch.zeros(1, dtype=torch.int32), 1.0)
    except RuntimeError as error:
        pytest.skip(f"Qwen4-Exp does not run with torch {torch.__version__}: {error}")


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_measured_right_or_refused(family: str) -> None:
    if family == "Qwen4-Exp":
        needs_int32_indices()
    found = finding(family)
    assert found.measured.keys() | found.refused.keys() == DEFINITION.keys()
    for fast, truth in found.measured.values():
        assert relative_error(fast.strength_by_projection, truth.strength_by_projection) <= 1e-8
        assert torch.equal(fast.strength.isfinite(), fast.measured)
        torch.testing.assert_close(fast.strength, truth.strength, equal_nan=True, rtol=1e-8, atol=0)
        torch.testing.assert_close(fast.entropy, truth.entropy, equal_nan=True, rtol=1e-10, atol=1e-13)


def test_table_of_families_in_the_docs() -> None:
    needs_int32_indices()
    text = (DOCS / "models.md").read_text(encoding="utf-8")
    for line in (plain(), *table()):
        assert line in text, "docs/models.md is not what tests/model_families.py prints"


@pytest.mark.parametrize("estimator", ["own", "last", "full"])
@pytest.mark.parametrize("family", ["Gemma 3n", SHARING, ONE_WEIGHT])
def test_steps_of_layers_that_share(family: str, estimator: str) -> None:
    batch, layers = family_batch(), "last" if estimator == "last" else "all"
    steps = steps_of(batch, ((2, 4), (1, 7)))
    with pure_double():
        model = family_model(family, torch.float64)
        fast, truth = (
            token_signals(model, batch, SignalSpec(name, layers, step_strength="joint"), steps=steps).steps
            for name in (estimator, DEFINITION[estimator])
        )
    assert relative_error(fast.strength_by_projection, truth.strength_by_projection) <= 1e-7
    assert torch.equal(fast.strength.isfinite(), fast.num_tokens > 0)
    torch.testing.assert_close(fast.strength, truth.strength, equal_nan=True, rtol=1e-7, atol=0)


@pytest.mark.parametrize("family", [SHARING, ONE_WEIGHT])
def test_steps_of_several_layers_at_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU: only layers with the same projections are computed together.
    model, batch = family_model(family), family_batch()
    spec, steps = SignalSpec(step_strength="joint"), steps_of(batch, ((2, 4), (1, 7)))
    single = token_signals(model, batch, spec, steps=steps).steps.strength_by_projection
    monkeypatch.setattr("antiphase.signals.own_backward._layers_at_once", lambda _: 4)
    several = token_signals(model, batch, spec, steps=steps).steps.strength_by_projection
    torch.testing.assert_close(several, single, equal_nan=True, rtol=1e-4, atol=0)


def test_cells_that_a_layer_lacks_are_undefined_and_left_out_of_the_mean() -> None:
    signals = finding(SHARING).measured["full"][0]
    there = signals.strength_by_projection[signals.measured].isfinite().all(0)
    assert there.tolist() == [[True] * 4] * 3 + [[True, False, False, True]] * 2
    mean = signals.strength_by_projection[signals.measured][:, there].mean(-1)
    torch.testing.assert_close(signals.strength[signals.measured], mean)
    assert finding(SHARING).left_out["without_projection"] == {"K": [3, 4], "V": [3, 4]}
    assert finding(ONE_WEIGHT).left_out["without_projection"] == {"V": [1, 2]}


@pytest.mark.parametrize("estimator", ["own", "last", "full", "oracle"])
def test_some_projections_of_layers_that_share(estimator: str) -> None:
    model, batch = family_model(SHARING), family_batch()
    layers = "last" if estimator == "last" else "all"
    everything = token_signals(model, batch, SignalSpec(estimator, layers)).strength_by_projection
    some = token_signals(model, batch, SignalSpec(estimator, layers, projections=("V", "Q"))).strength_by_projection
    torch.testing.assert_close(some, everything[..., [2, 0]], equal_nan=True, rtol=1e-5, atol=0)
    if estimator != "last":
        keys = token_signals(model, batch, SignalSpec(estimator, projections=("K",)))
        torch.testing.assert_close(
            keys.strength_by_projection, everything[..., [1]], equal_nan=True, rtol=1e-5, atol=0
        )
    with pytest.raises(InvalidInputError, match="no projection K, V of their own"):
        token_signals(model, batch, SignalSpec(estimator, "last", projections=("K", "V")))


@pytest.mark.parametrize("family", ["Gemma 3n", SHARING, ONE_WEIGHT])
def test_shared_prompts_of_layers_that_share(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randint(3, 300, (30,), generator=generator).tolist()
    batch = TokenBatch.from_ids([prompt] * 3, [[7, 8, 9], [11, 12], [13, 14, 15, 16]])
    with pure_double():
        model = family_model(family, torch.float64)
        assert prefix.continues(model)
        two = token_signals(model, batch).strength_by_projection
        monkeypatch.setattr(prefix, "continues", lambda _: False)
        one = token_signals(model, batch).strength_by_projection
    assert relative_error(two, one) <= 1e-8


@pytest.mark.parametrize("family", ["Qwen3.5", "Qwen3-Next"])
def test_the_gate_of_q_proj_is_not_q(family: str) -> None:
    with pure_double():
        model = family_model(family, torch.float64)
        batch = TokenBatch.from_ids([[5, 6, 7, 8]], [[9]])
        signals = token_signals(model, batch, SignalSpec("full", "last", projections=("Q",)))
        weight = model.model.layers[3].self_attn.q_proj.weight
        logit = model(input_ids=batch.input_ids[:, :4]).logits[0, 3, 9]
        (gradient,) = torch.autograd.grad(logit, weight)
    # The rows of each of the four heads are six of the query, then six of the gate.
    query, gate = (part.flatten(0, 1) for part in gradient.view(4, 2, 6, -1).unbind(1))
    assert gate.norm() > 0.01 * query.norm()
    assert signals.strength[0, 4].item() == pytest.approx(torch.linalg.svdvals(query).sum().item(), rel=1e-8)


def test_own_measures_layers_after_which_only_attention_mixes() -> None:
    with pytest.raises(UnsupportedModelError, match="outside softmax attention"):
        token_signals(family_model("Qwen3.5"), family_batch())
    with pure_double():
        model = family_model("Qwen3.5", torch.float64)
        fast, truth = (token_signals(model, family_batch(), SignalSpec(e, "last")) for e in ("own", "oracle-own"))
    assert fast.layers == (3,)
    assert relative_error(fast.strength_by_projection, truth.strength_by_projection) <= 1e-8


def test_unknown_half_of_q_proj_is_refused() -> None:
    model = tiny_model()
    model.model.layers[1].self_attn.q_proj = torch.nn.Linear(24, 48, bias=False)
    with pytest.raises(UnsupportedModelError, match="q_proj has 48 features and the O projection reads 24"):
        find_attention(model)


def test_layers_without_attention_are_named() -> None:
    model = family_model("LFM2")
    assert [layer.index for layer in find_attention(model)] == [1, 2]
    assert left_out(model) == {"num_layers": 4, "without_attention": {"conv": [0, 3]}, "without_projection": {}}
    for spec in (SignalSpec("last"), SignalSpec("full", "last"), SignalSpec("full", "last-2")):
        with pytest.raises(UnsupportedModelError, match=r"layer 3 of 4 has no softmax attention \(conv\).*: 1, 2\."):
            token_signals(model, family_batch(), spec)
    everything = token_signals(model, family_batch(), SignalSpec("full"))
    some = token_signals(model, family_batch(), SignalSpec("full", "2"))
    assert (everything.layers, some.layers) == ((1, 2), (2,))
    torch.testing.assert_close(
        some.strength_by_projection, everything.strength_by_projection[:, :, 1:], equal_nan=True, rtol=1e-5, atol=0
    )
    with pytest.raises(InvalidInputError, match="the model has 4 layers, 0 to 3"):
        token_signals(model, family_batch(), SignalSpec("full", "4"))


def test_linear_attention_is_not_taken_for_attention() -> None:
    # Its delta rule has q_proj, k_proj, v_proj and o_proj too.
    assert [layer.name for layer in find_attention(family_model("OLMo hybrid"))] == [
        "layers.1.self_attn",
        "layers.3.self_attn",
    ]


def test_latent_attention_is_refused_with_what_was_found() -> None:
    assert "DeepseekV3ForCausalLM" in finding("DeepSeek-V3").refused["full"]
    assert "kv_b_proj" in finding("DeepSeek-V3").refused["full"]


def test_layer_with_unknown_attention_is_refused() -> None:
    model = tiny_model()
    attention = model.model.layers[1].self_attn
    attention.w_q = attention.q_proj
    del attention.q_proj
    with pytest.raises(UnsupportedModelError, match=r"attention of layer 1 \(LlamaAttention\).*found .* w_q"):
        find_layers(model)


def test_shared_weights_are_refused() -> None:
    model = tiny_model()
    model.model.layers[2].self_attn.k_proj.weight = model.model.layers[0].self_attn.k_proj.weight
    with pytest.raises(UnsupportedModelError, match="layers 0 and 2 have the same attention weights"):
        token_signals(model, family_batch())
    model = tiny_model()
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(UnsupportedModelError, match="layers 1 and 2 have the same attention weights"):
        token_signals(model, family_batch())


def test_layers_that_run_twice_are_refused() -> None:
    model = tiny_model()
    layer = model.model.layers[1]
    once = layer.forward
    layer.forward = lambda hidden, **options: once(once(hidden, **options), **options)
    with pytest.raises(UnsupportedModelError, match="called twice in one forward pass"):
        token_signals(model, family_batch(), SignalSpec("full"))


def test_cache_that_is_changed_in_place_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="changes its cache in place"):
        token_signals(family_model("Falcon-H1"), family_batch(), SignalSpec("oracle-own"))


def test_model_without_a_cache_is_refused_by_name() -> None:
    config = AutoConfig.for_model("recurrent_gemma", **_BASE, lru_width=24, attention_window_size=8)
    model = shaken(AutoModelForCausalLM.from_config(config, dtype=torch.float32), 1.2)
    with pytest.raises(UnsupportedModelError, match=r"RecurrentGemmaForCausalLM returns no cache .*'oracle'"):
        token_signals(model, family_batch(), SignalSpec("oracle-own"))
    token_signals(model, family_batch(), SignalSpec("own"))


@pytest.mark.parametrize("estimator", ["own", "full"])
@pytest.mark.parametrize("family", EXPERTS)
def test_experts_do_not_depend_on_the_batch(family: str, estimator: str) -> None:
    # The kernel of transformers' choice, which groups the tokens of all rows by their expert.
    model = family_model(family, noise=0.7)
    model.set_experts_implementation("grouped_mm")
    spec, whole = SignalSpec(estimator), {side: family_batch(side) for side in ("left", "right")}
    together = {side: token_signals(model, batch, spec).strength for side, batch in whole.items()}
    assert (
        relative_error(
            together["left"][whole["left"].completion_mask], together["right"][whole["right"].completion_mask]
        )
        < 1e-4
    )
    for row in range(2):
        ids = whole["right"].input_ids[row][whole["right"].attention_mask[row]].tolist()
        cut = len(ids) - int(whole["right"].completion_mask[row].sum())
        alone = token_signals(model, TokenBatch.from_ids([ids[:cut]], [ids[cut:]]), spec).strength
        assert relative_error(alone[0, cut:], together["right"][row][whole["right"].completion_mask[row]]) < 1e-4


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_those_of_the_generation(family: str) -> None:
    jitter = {"router_jitter_noise": 0.5} if family == "Mixtral" else {}
    model = family_model(family, **jitter)
    chosen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if type(module).__name__.endswith("TopKRouter"):
            seen = chosen.setdefault(name, [])
            module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output[-1].sort(-1).values))
    torch.manual_seed(0)
    prompt = torch.tensor([[5, 6, 7, 8, 9]])
    ids = model.generate(prompt, do_sample=True, max_new_tokens=12, eos_token_id=None)
    generated = {name: torch.cat(seen) for name, seen in chosen.items()}
    assert len(chosen) == 3
    model.train()
    longer = ids[0, 5:].tolist() + [3, 4] * 5
    for estimator in ("own", "full"):
        batch = TokenBatch.from_ids([ids[0, :5].tolist(), [4, 3]], [ids[0, 5:].tolist(), longer])
        token_signals(model, batch, SignalSpec(estimator))  # The model is tried out once.
        for seen in chosen.values():
            seen.clear()
        token_signals(model, batch, SignalSpec(estimator))
        for name, seen in chosen.items():
            # The longer row comes first in the chunk, and only the first pass holds both rows whole.
            rows = seen[0].view(2, -1, 2)
            assert any(torch.equal(row[: len(ids[0]) - 1], generated[name]) for row in rows)
    assert model.training


def test_what_is_left_out_stands_in_summary_and_table(tmp_path) -> None:
    for family in (SHARING, "LFM2"):
        place = tmp_path / family
        family_model(family).save_pretrained(place)
        byte_tokenizer().save_pretrained(place)
        rows = [{"prompt_ids": [5, 6], "completion_ids": list(range(10, 22))}] * 2
        estimator = "full" if family == "LFM2" else "own"
        out = tmp_path / f"{family} out"
        found = antiphase.probe(str(place), rollouts=rows, estimators=estimator, num_resamples=20, out=out)
        result = found.summary["results"][0]
        assert result["left_out"] == left_out(family_model(family))
        assert " ".join(layers_note(result).split()) in " ".join(str(found).split())
        json.dumps(found.summary, allow_nan=False)
    assert layers_note(result) == (
        "2 of 4 layers have softmax attention and can be measured; 2 have none (conv: 0, 3)."
    )
    assert layers_note({}) is None
    assert result["layers"] == [1, 2]
