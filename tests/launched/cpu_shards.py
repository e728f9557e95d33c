"""Lets accelerate shard a model over CPU processes, as it does over GPUs, for scripts that tests launch."""

import os

from accelerate.state import DistributedType, PartialState

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def count_as_gpus():
    """Count CPU processes as GPUs. accelerate trains several CPU processes by DDP, whatever its configuration says."""
    before = PartialState.__init__

    def initialise(self, *args, **kwargs):
        before(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = initialise


def use_fsdp2(**changes):
    """Shard by FSDP 2. accelerate reads the options from the environment, where `accelerate launch` puts them."""
    os.environ.update({**FSDP2, **changes})
    count_as_gpus()


def use_zero(stage):
    """Shard by DeepSpeed ZeRO on CPUs."""
    # With this, accelerate would not look for DeepSpeed.
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    os.environ |= {"ACCELERATE_DEEPSPEED_ZERO3_INIT": "true", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"}
    before = PartialState.__init__

    def initialise(self, *args, **kwargs):
        fresh = not self._shared_state
        before(self, *args, **kwargs)
        if fresh:
            from deepspeed import comm

            if not comm.is_initialized():
                comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
            self.distributed_type = DistributedType.DEEPSPEED

    PartialState.__init__ = initialise
