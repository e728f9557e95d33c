"""The engine `vllm`: generates completions with vLLM, which loads its own copy of the weights.

vLLM draws the tokens of each rollout with vLLM's random generator, which starts from the rollout's own seed (see
`rollout_seeds`). vLLM does not promise the same tokens in another version, on another GPU or in another batch.

This module has never run with a real vLLM. The names of arguments follow the documentation of `LLM` in vLLM 0.16
(https://docs.vllm.ai/en/v0.16.0/api/vllm/entrypoints/llm/) and the source of `SamplingParams`. According to the source
of vLLM's scheduler and detokenizer, `token_ids` contains the token that ends a completion, once.

The end tokens are the same as in the other engines: `ignore_eos` switches off the end token that vLLM takes from the
tokenizer, and `stop_token_ids` names those that antiphase uses. `generation_config="vllm"` makes vLLM ignore the
checkpoint's top-k and penalties. If the temperature is above 0 and below 0.01, vLLM uses 0.01.
"""

import gc
import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from antiphase.errors import InvalidInputError, MissingExtraError, ModelNotFoundError, OutOfMemoryError, first_line
from antiphase.models.demo import DEMO, demo_model_path
from antiphase.rollouts.end_tokens import end_token_union
from antiphase.rollouts.engine import Completion, Generator
from antiphase.rollouts.sampling import trim
from antiphase.rollouts.sampling_spec import Sampling

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class VllmOptions:
    """The model that vLLM loads, and the memory that it takes.

    Args:
        name: a hub id, a local directory, or `demo`.
        dtype: the dtype of the weights: `auto` (the checkpoint's own), `float32`, `bfloat16` or `float16`.
        revision: the branch, tag or commit on the hub from which weights and tokenizer are loaded.
        trust_remote_code: whether to run code that comes with the model.
        max_model_len: the greatest number of tokens of prompt and completion together; None uses the model's context
            length.
        memory_share: the share of the GPU's memory that vLLM takes.
        seed: seed of vLLM's engine. Every rollout also has a seed of its own.
    """

    name: str
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    max_model_len: int | None = None
    memory_share: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInputError(f"vLLM's dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}.")
        if not 0 < self.memory_share <= 1:
            raise InvalidInputError(f"memory_share must lie in (0, 1]; got {self.memory_share}.")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise InvalidInputError(f"max_model_len must be at least 2; got {self.max_model_len}.")


class VllmGenerator(Generator):
    """Engine that generates completions with vLLM.

    Args:
        options: the model that vLLM loads, and the memory that it takes.
        end_ids: ids of tokens that end a completion, in addition to the model's own end tokens.

    Raises:
        MissingExtraError: vLLM is not installed.
        ModelNotFoundError: no model has this name.
        InvalidInputError: vLLM cannot run this model.
        OutOfMemoryError: the weights or the cache do not fit into the GPU's memory.
    """

    name = "vllm"

    def __init__(self, options: VllmOptions, end_ids: Sequence[int] = ()) -> None:
        try:
            vllm: Any = importlib.import_module("vllm")
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise MissingExtraError("vllm", "vllm", "generating with vLLM") from error
        self._vllm = vllm
        self._options = options
        source = demo_model_path() if options.name == DEMO else options.name
        self._ends = list(dict.fromkeys([*_own_end_tokens(source, options), *end_ids]))
        self._engine: Any = _engine(vllm, source, options)
        self.versions = {"vllm": vllm.__version__, "torch": importlib.metadata.version("torch")}

    def complete(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        *,
        tick: Callable[[float], None] = lambda _: None,
    ) -> list[Completion]:
        """Generate one completion for each prompt, and return the completions in the order of the prompts.

        Args:
            prompt_ids: the token ids of the prompts.
            sampling: the sampling options.
            seeds: the seed of each rollout, a number below 2⁶³; see `rollout_seeds`.
            tick: function for a progress bar. It is called once, at the end, with the value 1.

        Raises:
            InvalidInputError: a prompt is empty or too long for the context, or vLLM did not finish a rollout.
            OutOfMemoryError: the batch does not fit; lower `memory_share`, the batch size or `max_new_tokens`.
        """
        if not prompt_ids:
            return []
        self._check_lengths(prompt_ids, sampling)
        try:
            outputs = self._engine.generate(
                [self._vllm.TokensPrompt(prompt_token_ids=list(ids)) for ids in prompt_ids],
                [self._parameters(sampling, seed) for seed in seeds],
                use_tqdm=False,
            )
        except (RuntimeError, ValueError) as error:
            raise _explained(error, self._options, "while generating") from error
        completions = [_completion(row, output.outputs[0], self._ends, sampling) for row, output in enumerate(outputs)]
        tick(1.0)
        return completions

    def close(self) -> None:
        """Free the engine and its GPU memory."""
        self._engine = None
        gc.collect()

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            ignore_eos=True,
            stop_token_ids=self._ends,
            detokenize=False,
            skip_special_tokens=False,
        )

    def _check_lengths(self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling) -> None:
        if self._engine is None:
            raise InvalidInputError("this generator is closed; make another.")
        most = self._options.max_model_len
        for row, ids in enumerate(prompt_ids):
            if len(ids) == 0:
                raise InvalidInputError(f"prompt {row} has no tokens; a completion needs one token before it.")
            if most is not None and len(ids) + sampling.max_new_tokens > most:
                raise InvalidInputError(
                    f"prompt {row} has {len(ids)} tokens, which with max_new_tokens {sampling.max_new_tokens} "
                    f"exceeds max_model_len {most}. Raise max_model_len or lower max_new_tokens."
                )


def make(loaded: Any, *, end_ids: Sequence[int] = (), vllm: VllmOptions | None = None) -> Generator:
    """Return the engine `vllm` for these options. vLLM loads its own weights, so `loaded` is ignored.

    Raises:
        InvalidInputError: `vllm` is None, or vLLM cannot run the model.
        MissingExtraError: vLLM is not installed.
    """
    if vllm is None:
        raise InvalidInputError("the engine 'vllm' loads its own weights: pass VllmOptions as the argument vllm.")
    return VllmGenerator(vllm, end_ids)


def _engine(vllm: Any, source: str, options: VllmOptions) -> Any:
    try:
        return vllm.LLM(
            model=source,
            dtype=options.dtype,
            revision=options.revision,
            tokenizer_revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            max_model_len=options.max_model_len,
            gpu_memory_utilization=options.memory_share,
            seed=options.seed,
            generation_config="vllm",
        )
    except (RuntimeError, ValueError) as error:
        raise _explained(error, options, "while loading") from error


def _own_end_tokens(source: str, options: VllmOptions) -> list[int]:
    """Return the ids of the model's own end tokens, which its generation config and its tokenizer name.

    The weights are not loaded.

    Args:
        source: the hub id or the directory that the files are read from.
        options: the options of vLLM.

    Raises:
        ModelNotFoundError: the files cannot be read.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    shared = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(source, **shared)
        try:
            generation = GenerationConfig.from_pretrained(source, revision=options.revision)
        except OSError:  # The checkpoint has no generation config.
            generation = GenerationConfig.from_model_config(config)
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"could not read the configuration of {options.name!r}: {first_line(error)}"
        ) from error
    return end_token_union(generation, tokenizer)


def _completion(row: int, output: Any, ends: Sequence[int], sampling: Sampling) -> Completion:
    """Return the completion that vLLM generated for one rollout, after checks.

    Args:
        row: the index of the rollout in the batch, for error messages.
        output: vLLM's output for the rollout.
        ends: the ids of the end tokens.
        sampling: the sampling options.

    Raises:
        InvalidInputError: vLLM did not finish the rollout, or cut it off before `max_new_tokens`.
    """
    ids, finish = trim([int(token) for token in output.token_ids], ends)
    if output.finish_reason not in ("stop", "length"):
        raise InvalidInputError(
            f"vLLM stopped rollout {row} after {len(ids)} tokens with the finish reason {output.finish_reason!r}; "
            "vLLM's log says why. Generate the batch again, or use another engine."
        )
    if finish != output.finish_reason:
        raise InvalidInputError(
            f"vLLM finished rollout {row} with {output.finish_reason!r}, but its last token is "
            f"{ids[-1] if ids else 'missing'} and the end tokens are {list(ends)}: antiphase "
            "does not understand this version of vLLM."
        )
    if finish == "length" and len(ids) < sampling.max_new_tokens:
        raise InvalidInputError(
            f"vLLM cut rollout {row} off at {len(ids)} of {sampling.max_new_tokens} tokens, where the model's context "
            "ends. Lower max_new_tokens, or raise max_model_len."
        )
    return Completion(tuple(ids), finish)


def _explained(error: Exception, options: VllmOptions, when: str) -> Exception:
    text = str(error).lower()
    if "out of memory" in text or "memory for the cache" in text or "free memory on device" in text:
        return OutOfMemoryError(
            f"vLLM ran out of GPU memory {when}: {first_line(error)} Change memory_share (now "
            f"{options.memory_share}), lower max_model_len, or choose a smaller model."
        )
    return InvalidInputError(f"vLLM failed {when} with {options.name!r}: {first_line(error)}")
