"""`torch_compile`: the policy is measured without the compiled code, and trained with it."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from antiphase.errors import UnsupportedModelError
from antiphase.models.architecture import find_attention, unwrap
from antiphase.signals.measure import token_signals
from antiphase.training.policy import whole_policy
from antiphase.training.trajectory import read_trajectory
from antiphase.types import TokenBatch
from conftest import tiny_model
from training_cases import run, same, weights

pytestmark = [
    # What TRL, transformers and torch say of their own next versions.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # What torch says while it compiles the host's own code.
    pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor:UserWarning"),
]
COMPILED = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 2, "inversion_weight": 0.5}


@pytest.fixture(autouse=True)
def _plain_afterwards(monkeypatch):
    """transformers switches compilation on by variables of the process, which would reach the next trainers."""
    for name in ("BACKEND", "MODE", "USE_REGIONAL_COMPILATION"):
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "no" if name == "BACKEND" else "")
        if name != "BACKEND":
            monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")
    yield
    torch.compiler.reset()


def batch():
    return TokenBatch.from_ids([[5, 6, 7]], [list(range(10, 30))])


def test_a_compiled_model_is_unwrapped():
    model = tiny_model()
    compiled = torch.compile(model, backend="eager")
    assert unwrap(compiled) is model
    assert len(find_attention(compiled)) == len(find_attention(model))
    expected, found = token_signals(model, batch()), token_signals(compiled, batch())
    assert torch.equal(found.strength.nan_to_num(), expected.strength.nan_to_num())


def test_adapters_on_either_side_of_the_compilation():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert unwrap(torch.compile(adapted, backend="eager")) is adapted.get_base_model()


def test_a_compiled_policy_trains_and_is_measured(tmp_path):
    plain = run(tmp_path / "plain", max_steps=2, inversion_weight=0.5)
    compiled = run(tmp_path / "compiled", **COMPILED)
    assert isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    first, other = (read_trajectory(tmp_path / name)[0] for name in ("plain", "compiled"))
    for name in ("inversion/mean", "rollout/entropy", "rollout/strength"):
        assert other[name] == pytest.approx(first[name], rel=1e-5)
    for left, right in zip(weights(plain), weights(compiled), strict=True):
        assert torch.allclose(left, right, atol=1e-4)


def test_weight_0_is_the_compiled_host(tmp_path):
    host = {name: value for name, value in COMPILED.items() if name != "inversion_weight"}
    assert same(
        run(tmp_path / "host", trainer=GRPOTrainer, config=GRPOConfig, **host),
        run(tmp_path / "ours", **{**COMPILED, "inversion_weight": 0.0}),
    )


def test_layers_that_were_compiled_in_place_run_their_plain_code(tmp_path):
    """FSDP 2 and ZeRO-3 compile so. Here a layer is compiled by hand, to code that would be seen to run."""
    trainer = run(tmp_path, **COMPILED)
    ran = []

    def backend(graph, inputs):
        def call(*arguments):
            ran.append(1)
            return graph.forward(*arguments)

        return call

    trainer.model.model.layers[0].compile(backend=backend)
    trainer.model(input_ids=torch.tensor([[3, 4, 5]]))
    assert ran
    ran.clear()
    with whole_policy(trainer.model_wrapped, trainer.accelerator) as policy:
        found = token_signals(policy, batch())
    assert not ran
    plain = tiny_model()
    plain.load_state_dict(trainer.model.state_dict())
    assert torch.allclose(found.strength, token_signals(plain, batch()).strength, rtol=1e-5, equal_nan=True)


@pytest.mark.slow
def test_the_code_of_inductor(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler, and g++ is not installed")
    run(tmp_path, **{**COMPILED, "torch_compile_backend": "inductor", "max_steps": 1})
    assert read_trajectory(tmp_path)[0]["inversion/undefined"] == 0


def test_regional_compilation_is_refused_at_the_start(tmp_path, monkeypatch):
    """TRL would take the training batches for batches of evaluation, in silence."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "true")
    with pytest.raises(UnsupportedModelError, match="use_regional_compilation to false"):
        run(tmp_path, train=False, **COMPILED)


def test_regional_compilation_in_place_is_not_refused():
    from accelerate.utils import DistributedType, DynamoBackend

    from antiphase.training.policy import check_compilation

    plugin = SimpleNamespace(backend=DynamoBackend.INDUCTOR, use_regional_compilation=True)
    for kind, refused in ((DistributedType.FSDP, False), (DistributedType.MULTI_GPU, True)):
        accelerator = SimpleNamespace(state=SimpleNamespace(distributed_type=kind, dynamo_plugin=plugin))
        if refused:
            with pytest.raises(UnsupportedModelError):
                check_compilation(accelerator)
        else:
            check_compilation(accelerator)
