"""How a training is launched: what is refused before a model is loaded, and the launch files of recipes/cluster."""

import inspect
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin, ParallelismConfig
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch import nn

from antiphase.cli import main
from antiphase.errors import InvalidInputError, UnsupportedModelError
from antiphase.training.launch import check_launch
from antiphase.training.policy import check_sharding
from antiphase.training.recipe import parse_recipe
from antiphase.training.trainer_config import CorRPOConfig
from conftest import tiny_model
from training_cases import TASK, flags, run, settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Port `.*` is already in use:UserWarning"),
]
CLUSTER = Path(__file__).parents[2] / "recipes" / "cluster"
SHARDINGS = ("ddp", "fsdp2", "zero2", "zero3")


def environment_of(config, *words):
    """The environment that `accelerate launch` gives to the processes that it starts."""
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(config), *words, "-m", "antiphase", "train"])
    args, defaults, _ = _validate_launch_command(args)
    if not args.use_deepspeed:
        return args, prepare_multi_gpu_env(args)
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return args, prepare_deepspeed_cmd_env(args)[1]


def changed(tmp_path, name, **changes):
    content = yaml.safe_load((CLUSTER / "accelerate" / f"{name}.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


class TestRefusals:
    def test_fsdp1_in_the_accelerate_config(self, tmp_path, monkeypatch, capsys, model_dir):
        _, environment = environment_of(changed(tmp_path, "fsdp2", fsdp_config={"fsdp_version": 1}))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main(["train", *flags(model_dir, tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert "inversion cannot be measured under FSDP 1" in message
        assert "Use FSDP 2 (fsdp_version: 2 in the accelerate config), DeepSpeed ZeRO, or DDP." in message
        assert not (tmp_path / "out").exists()
        with pytest.raises(InvalidInputError, match="FSDP 1"):
            CorRPOConfig(**settings(tmp_path))

    def test_a_version_is_fsdp1_if_none_is_named(self):
        # So says accelerate's plugin.
        assert FullyShardedDataParallelPlugin().fsdp_version == 1
        with pytest.raises(InvalidInputError, match="FSDP 1"):
            check_launch({"ACCELERATE_USE_FSDP": "true"})
        check_launch({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
        check_launch({"ACCELERATE_USE_FSDP": "false", "FSDP_VERSION": "1"})

    def test_the_arguments_decide_if_accelerate_itself_switched_fsdp_on(self, tmp_path, monkeypatch):
        """A trainer with a plugin of FSDP 2 sets this variable, and leaves out the version."""
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.delenv("FSDP_VERSION", raising=False)
        CorRPOConfig(**settings(tmp_path))
        assert CorRPOConfig(**settings(tmp_path, fsdp="full_shard")).fsdp_plugin_args["fsdp_version"] == 2
        with pytest.raises(InvalidInputError, match="FSDP 1"):
            CorRPOConfig(**settings(tmp_path, fsdp="full_shard", fsdp_config={"version": 1}))
        # Arguments that ask for FSDP 2 have precedence over a version in the environment.
        monkeypatch.setenv("FSDP_VERSION", "1")
        CorRPOConfig(**settings(tmp_path, fsdp="full_shard"))
        with pytest.raises(InvalidInputError, match="FSDP 1"):
            CorRPOConfig(**settings(tmp_path))

    def test_fsdp1_in_the_arguments(self, tmp_path):
        with pytest.raises(InvalidInputError, match="FSDP 1"):
            CorRPOConfig(**settings(tmp_path, fsdp="full_shard", fsdp_config={"version": 1}))

    @pytest.mark.parametrize(("name", "words"), [("tp", "tensor"), ("cp", "context"), ("sp", "sequence")])
    def test_parallelism_within_a_rollout(self, tmp_path, name, words):
        sizes = {f"parallelism_config_{name}_size": 2, "parallelism_config_dp_shard_size": 4}
        _, environment = environment_of(changed(tmp_path, "fsdp2", parallelism_config=sizes))
        with pytest.raises(InvalidInputError, match=rf"{words} parallelism \({name}_size 2\) is not supported"):
            check_launch(environment)
        check_launch({**environment, f"PARALLELISM_CONFIG_{name.upper()}_SIZE": "1"})

    def test_parallelism_in_the_arguments(self, tmp_path):
        with pytest.raises(InvalidInputError, match="tensor parallelism"):
            CorRPOConfig(**settings(tmp_path, parallelism_config=ParallelismConfig(tp_size=2, dp_shard_size=2)))
        # TRL refuses the others itself, with its own words.
        with pytest.raises(ValueError, match="sequence-dim parallelism"):
            CorRPOConfig(**settings(tmp_path, parallelism_config=ParallelismConfig(cp_size=2, dp_shard_size=2)))
        with pytest.raises(InvalidInputError, match="model_init_kwargs has tp_plan"):
            CorRPOConfig(**settings(tmp_path, model_init_kwargs={"tp_plan": "auto"}))

    def test_megatron(self):
        with pytest.raises(InvalidInputError, match="TRL does not train with Megatron-LM"):
            check_launch({"ACCELERATE_USE_MEGATRON_LM": "true"})

    def test_what_is_known_only_to_the_accelerator(self):
        def accelerator(version=None, deepspeed=None):
            plugin = deepspeed and SimpleNamespace(deepspeed_config=deepspeed, zero_stage=1)
            fsdp = version and SimpleNamespace(fsdp_version=version)
            return SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin, fsdp_plugin=fsdp))

        check_sharding(accelerator(2), tiny_model())
        check_sharding(accelerator(deepspeed={"zero_optimization": {"stage": 1}}), tiny_model())
        with pytest.raises(UnsupportedModelError, match="FSDP 1"):
            check_sharding(accelerator(1), tiny_model())
        save = "stage3_gather_16bit_weights_on_model_save"
        check_sharding(accelerator(deepspeed={"zero_optimization": {"stage": 3, save: True}}), tiny_model())
        for stage3 in ({"stage": 3}, {"stage": 3, save: False}):
            with pytest.raises(UnsupportedModelError, match=f"{save} is not set"):
                check_sharding(accelerator(deepspeed={"zero_optimization": stage3}), tiny_model())
        with pytest.raises(UnsupportedModelError, match="tensor parallelism"):
            check_sharding(accelerator(deepspeed={"tensor_parallel": {"autotp_size": 2}}), tiny_model())


class _Engine:
    """Stands for TRL's connection to vLLM: it notes its arguments, and completes prompts without a model."""

    made: ClassVar = []

    def __init__(self, **arguments):
        self.arguments, self.synced = arguments, 0
        self.made.append(self)

    def sync_weights(self):
        self.synced += 1

    def generate(self, prompts, num_generations, **_):
        ids = [[5 + (7 * place + 3 * k) % 200 for k in range(6 + place)] for place in range(len(prompts))]
        return prompts, ids, [[[-2.5]] * len(row) for row in ids], None


class TestVllm:
    @pytest.mark.parametrize(
        "options",
        [
            {"vllm_mode": "server", "vllm_server_host": "10.0.0.1", "vllm_server_port": 8123, "vllm_group_port": 5000},
            {"vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.25, "vllm_enable_sleep_mode": True},
        ],
        ids=["server", "colocate"],
    )
    def test_the_options_reach_trl(self, tmp_path, monkeypatch, model_dir, options):
        """The trainer measures what TRL's engine for vLLM returned. vLLM itself is not run here."""
        monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", _Engine)
        recipe = parse_recipe(flags(model_dir, tmp_path / "out", use_vllm="true", **options))
        assert {name: getattr(recipe.config, name) for name in options} == options
        _Engine.made.clear()
        server = {"vllm_importance_sampling_correction": False} if options["vllm_mode"] == "server" else {}
        trainer = run(tmp_path / "run", use_vllm=True, max_steps=2, **server, **options)
        [engine] = _Engine.made
        assert engine.arguments["mode"] == options["vllm_mode"]
        for name, value in options.items():
            assert engine.arguments[name.removeprefix("vllm_").replace("vllm_", "")] == value
        assert engine.synced >= 2
        logs = [log for log in trainer.state.log_history if "inversion/mean" in log]
        assert len(logs) == 2
        assert all(log["inversion/undefined"] < 1 and log["rollout/length"] == 9.5 for log in logs)

    def test_what_trl_refuses_later_is_refused_before_the_model_is_loaded(self, tmp_path, capsys, model_dir):
        assert main(["train", *flags(model_dir, tmp_path / "out", use_vllm="true")]) == 2
        assert (
            "use_vllm needs the package 'vllm'. Install it: pip install 'antiphase[vllm]'." in capsys.readouterr().err
        )
        assert not (tmp_path / "out").exists()
        for options, message in {
            ("vllm_mode", "serve"): "vllm_mode must be one of server, colocate; got 'serve'",
            ("vllm_tensor_parallel_size", 2): "vllm_tensor_parallel_size 2 does not divide the number of processes, 1",
        }.items():
            with pytest.raises(InvalidInputError, match=message):
                parse_recipe(flags(model_dir, tmp_path, use_vllm="true", **dict([options])))
        refused = {"vllm_importance_sampling_clip_min": 3, "vllm_importance_sampling_clip_max": 2}
        with pytest.raises(InvalidInputError, match="must be less than"):
            parse_recipe(flags(model_dir, tmp_path, use_vllm="true", **refused))


class TestLaunchFiles:
    @pytest.mark.parametrize("name", SHARDINGS)
    @pytest.mark.parametrize("nodes", [1, 2])
    def test_accelerate_reads_the_configuration(self, name, nodes):
        words = () if nodes == 1 else ("--num_machines", "2", "--num_processes", "16", "--machine_rank", "1")
        words += () if nodes == 1 else ("--main_process_ip", "10.0.0.1", "--main_process_port", "29777")
        args, environment = environment_of(CLUSTER / "accelerate" / f"{name}.yaml", *words)
        assert (args.num_machines, args.num_processes) == (nodes, 8 * nodes)
        assert (args.nproc_per_node, environment["ACCELERATE_MIXED_PRECISION"]) == ("8", "bf16")
        check_launch(environment)
        assert (environment.get("ACCELERATE_USE_FSDP") == "true") == (name == "fsdp2")
        assert (environment.get("ACCELERATE_USE_DEEPSPEED") == "true") == name.startswith("zero")
        if name.startswith("zero"):
            assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == name[-1]
        if name == "zero3":
            # Without this, no whole model is saved at the end.
            assert environment["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == "true"

    def test_accelerate_makes_fsdp2_of_it(self, monkeypatch):
        _, environment = environment_of(CLUSTER / "accelerate" / "fsdp2.yaml")
        for name in [name for name in environment if name.startswith("FSDP_")]:
            monkeypatch.setenv(name, environment[name])
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
        assert plugin.cpu_ram_efficient_loading
        monkeypatch.setattr(plugin, "mixed_precision_policy", None)
        plugin.set_mixed_precision("bf16")
        # The page about many processes says so: the weights are gathered, and measured, in bfloat16.
        assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16

    def test_a_dry_run_of_the_recipe(self, model_dir, tmp_path, capsys):
        words = ["train", "--config", str(CLUSTER / "recipe.yaml"), "--dry-run", "--model", str(model_dir)]
        words += [
            "--tasks",
            TASK,
            "--max_completion_length",
            "8",
            "--use_cpu",
            "true",
            "--bf16",
            "false",
            "--num_problems",
            "16",
        ]
        assert main([*words, "--bf16", "false", "--eval_problems", "4", "--out", str(tmp_path / "out")]) == 0
        out = capsys.readouterr().out
        assert "preset dapo+corr-po-fast" in out
        assert "16 training problems, 4 held out; 32 rollouts a generation, in groups of 8" in out
        assert "a step takes roughly" in out
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("sharding", "gpus"), [(None, None), ("zero3", "8"), (None, "h100:8")])
    def test_the_slurm_script(self, tmp_path, sharding, gpus):
        script = CLUSTER / "two_nodes.sh"
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
        fakes = {
            "scontrol": "echo node-a\necho node-b\n",
            # As Slurm does: the task runs on every node, with another number.
            "srun": 'shift\nfor node in 0 1; do SLURM_NODEID=$node "$@"; done\n',
            "accelerate": 'printf "%s\\n" "$*" >> "$CALLS"\n',
        }
        for name, body in fakes.items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{body}", encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "4711", **({"SHARDING": sharding} if sharding else {}),
            **({"SLURM_GPUS_PER_NODE": gpus} if gpus else {}),
        }  # fmt: skip
        words = ["--max_steps", "7", "--system_prompt", "two words"]
        assert shutil.which("bash")
        done = subprocess.run(
            ["bash", str(script), *words], env=environment, capture_output=True, text=True, check=False,
            cwd=CLUSTER.parents[1],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
        assert calls == [
            f"launch --config_file recipes/cluster/accelerate/{sharding or 'fsdp2'}.yaml --num_machines 2 "
            f"--num_processes 16 --machine_rank {node} --main_process_ip node-a --main_process_port 24711 "
            "-m antiphase train --config recipes/cluster/recipe.yaml --max_steps 7 --system_prompt two words"
            for node in (0, 1)
        ]


class TestSignatures:
    """What the code relies on, and no check at the start of a training looks at."""

    def test_of_fsdp2(self):
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
            ActivationWrapper,
            checkpoint_wrapper,
        )
        from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

        assert list(inspect.signature(FSDPModule.unshard).parameters) == ["self", "async_op"]
        assert list(inspect.signature(FSDPModule.reshard).parameters) == ["self"]
        assert list(inspect.signature(FSDPModule._get_fsdp_state).parameters) == ["self"]
        assert list(inspect.signature(register_fsdp_forward_method).parameters) == ["module", "method_name"]
        wrapped = checkpoint_wrapper(nn.Identity())
        assert isinstance(wrapped, ActivationWrapper)
        assert isinstance(wrapped._checkpoint_wrapped_module, nn.Identity)
        assert {"_forward_pre_hooks", "_forward_hooks"} <= vars(nn.Identity()).keys()

    def test_of_accelerate_transformers_and_trl(self, tmp_path):
        from accelerate.utils import gather_object
        from transformers import GenerationMixin
        from trl.distributed import DistributedBackend
        from trl.generation.vllm_generation import VLLMGeneration
        from trl.models import unwrap_model_for_generation

        assert list(inspect.signature(gather_object).parameters) == ["object"]
        assert "synced_gpus" in inspect.signature(GenerationMixin.generate).parameters
        plugin = inspect.signature(FullyShardedDataParallelPlugin.set_state_dict_type)
        assert list(plugin.parameters) == ["self", "state_dict_type"]
        names = {"accelerator", "gather_deepspeed3_params", "gradient_checkpointing_kwargs"}
        assert names <= set(inspect.signature(unwrap_model_for_generation).parameters)
        assert {"is_zero3", "is_fsdp"} <= set(dir(DistributedBackend))
        assert {"mode", "server_host", "tensor_parallel_size"} <= set(inspect.signature(VLLMGeneration).parameters)
        config = CorRPOConfig(**settings(tmp_path))
        assert {"fsdp_plugin_args", "parallelism_config", "model_init_kwargs", "world_size"} <= set(dir(config))
        assert config.fsdp_plugin_args is None
