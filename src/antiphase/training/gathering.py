"""`GatheringTrainer`: TRL's `GRPOTrainer` that generates with whole weights where FSDP 2 shards them.

TRL generates under FSDP 2 layer by layer: each layer's weights are gathered for every token, and all processes take
part. transformers does not see that accelerate sharded the model, so a process whose completions are short stops early.
The other processes then wait for it for ever. Under ZeRO-3, TRL gathers the weights first; this class does the same
for FSDP 2.
"""

import contextlib
from typing import Any, cast

from trl import GRPOTrainer

from antiphase.training.whole_weights import whole_weights


class GatheringTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's `GRPOTrainer` that gathers the weights of an FSDP 2 model once for each batch that it generates."""

    def _generate(self, prompts: Any) -> Any:
        args = cast(Any, self.args)
        # vLLM has weights of its own, to which TRL copies the shards. Continuous batching changes the weights' dtype.
        elsewhere = args.use_vllm or args.use_transformers_continuous_batching
        with contextlib.nullcontext() if elsewhere else whole_weights(self.model_wrapped):
            return super()._generate(prompts)
