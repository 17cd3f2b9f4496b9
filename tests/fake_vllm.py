"""vLLM without vLLM: the part of its interface that is used, with answers from the engine of this package.

Names, defaults and refusals were read from the source of vLLM 0.33.0 (vllm/entrypoints/llm.py, sampling_params.py, outputs.py,
engine/arg_utils.py, v1/worker/gpu_worker.py). An argument that vLLM does not know is an error here, and so are calls in an
order that it does not allow: answers while asleep, or from cached prompts of other weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fairlead.batch import Prompts, left_pad, row_table
from fairlead.generation import Sampling, generate

LLM_ARGUMENTS = frozenset(
    # those that LLM() names, then those of EngineArgs behind its **kwargs that are of use here
    [
        "runner",
        "convert",
        "tokenizer",
        "tokenizer_mode",
        "skip_tokenizer_init",
        "trust_remote_code",
        "allowed_local_media_path",
        "allowed_media_domains",
        "tensor_parallel_size",
        "dtype",
        "quantization",
        "revision",
        "tokenizer_revision",
        "chat_template",
        "seed",
        "gpu_memory_utilization",
        "cpu_offload_gb",
        "offload_group_size",
        "offload_num_in_group",
        "offload_prefetch_step",
        "offload_params",
        "enforce_eager",
        "enable_return_routed_experts",
        "return_sampling_mask",
        "disable_custom_all_reduce",
        "hf_token",
        "hf_overrides",
        "mm_processor_kwargs",
        "pooler_config",
        "structured_outputs_config",
        "profiler_config",
        "attention_config",
        "kv_cache_memory_bytes",
        "compilation_config",
        "quantization_config",
        "logits_processors",
        "spec_method",
        "spec_model",
        "spec_tokens",
        "load_format",
        "max_model_len",
        "enable_sleep_mode",
        "logprobs_mode",
        "generation_config",
        "distributed_executor_backend",
        "enable_prefix_caching",
        "max_num_seqs",
        "max_num_batched_tokens",
        "kv_cache_dtype",
        "disable_log_stats",
    ]
)
LOGPROBS_MODES = ("raw_logits", "raw_logprobs", "processed_logits", "processed_logprobs")
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")


@dataclass
class SamplingParams:
    """Settings of a request. Fields that are not used here are left out, so they cannot be used unseen."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        if 0 < self.temperature < 1e-2:
            self.temperature = 1e-2
        if self.seed == -1:
            self.seed = None
        self.stop = [] if self.stop is None else self.stop
        self.stop_token_ids = list(dict.fromkeys(self.stop_token_ids or []))
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens must be less than or equal to max_tokens={self.max_tokens}")
        if any(not string for string in self.stop):
            raise ValueError("stop cannot contain an empty string.")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if self.temperature < 1e-5:
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0


@dataclass
class Logprob:
    """The log-probability of a token at a position."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """One answer."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """The answers to one prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class _Codec:
    tokenizer: Any
    end_ids: tuple[int, ...]
    padding_id: int = 0

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


@dataclass
class LLM:
    """An engine whose model has random weights until it is given others."""

    started: ClassVar[list[LLM]] = []

    model: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __init__(self, model: str, **arguments: Any) -> None:
        assert not set(arguments) - LLM_ARGUMENTS, set(arguments) - LLM_ARGUMENTS
        assert arguments["dtype"] in DTYPES and arguments["logprobs_mode"] in LOGPROBS_MODES
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"  # a generator of weights goes to no other process
        self.model, self.arguments = model, arguments
        self.calls: list[str] = []
        config = AutoConfig.from_pretrained(model)
        assert config.architectures and Path(model, "config.json").is_file()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.network = AutoModelForCausalLM.from_config(config).to(getattr(torch, arguments["dtype"]))
        assert arguments["load_format"] == "dummy"
        self._dummy()
        self.context = arguments["max_model_len"] or config.max_position_embeddings
        self.asleep: set[str] = set()
        self.cached = False  # prompts of older weights
        self.requests: list[Any] = []
        self.settings: list[SamplingParams] = []
        LLM.started.append(self)

    def _dummy(self) -> None:
        with torch.no_grad():
            for weight in self.network.parameters():
                weight.fill_(float("nan"))

    def generate(
        self,
        prompts: Sequence[Any],
        sampling_params: Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """An answer for each prompt, in their order."""
        assert not self.asleep and not self.cached and prompts and sampling_params is not None
        assert not use_tqdm
        self.calls.append("generate")
        self.requests, self.settings = list(prompts), list(sampling_params)
        params = self.settings[0]
        assert all(vars(p) | {"seed": 0} == vars(params) | {"seed": 0} for p in self.settings)
        assert all(p.seed is not None for p in self.settings) and params.logprobs == 0
        assert params.ignore_eos and params.max_tokens and params.stop is not None and params.stop_token_ids is not None
        ids, mask = left_pad([prompt["prompt_token_ids"] for prompt in prompts], 0)
        assert ids.shape[1] + params.max_tokens <= self.context
        batch = Prompts(
            prompt_ids=ids,
            prompt_mask=mask,
            group=torch.arange(len(ids)),
            seed=torch.tensor([p.seed for p in self.settings]),
            rows=row_table([{}] * len(ids)),
            batch_size=[len(ids)],
        )
        codec = _Codec(self.tokenizer, tuple(params.stop_token_ids))
        sampling = Sampling(
            maximum_tokens=params.max_tokens,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            stop=params.stop,
            minimum_tokens=params.min_tokens,
        )
        found = generate(self.network, codec, batch, sampling)
        processed = self.arguments["logprobs_mode"] == "processed_logprobs" and params.temperature > 0
        logprobs = found.sampling_logprobs if processed else found.logprobs
        return [
            RequestOutput(
                request_id=str(row),
                prompt=None,
                prompt_token_ids=prompts[row]["prompt_token_ids"],
                outputs=[self._completion(found, logprobs, params, row)],
                finished=True,
            )
            for row in range(len(ids))
        ]

    def _completion(self, found: Any, logprobs: Tensor, params: SamplingParams, row: int) -> CompletionOutput:
        tokens = found.tokens[row][found.mask[row]].tolist()
        end: int | str | None = None
        if not found.truncated[row]:
            end = tokens[-1] if tokens[-1] in (params.stop_token_ids or []) else (params.stop or [None])[0]
        return CompletionOutput(
            index=0,
            text=found.rows[row]["response"] if params.detokenize else "",
            token_ids=tokens,
            cumulative_logprob=float(logprobs[row].sum()),
            logprobs=[{t: Logprob(float(logprobs[row, i]), 1)} for i, t in enumerate(tokens)],
            finish_reason="length" if found.truncated[row] else "stop",
            stop_reason=end,
        )

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[None]:
        """Call a method of the worker."""
        assert (method, timeout, args) == ("reload_weights", None, ())
        self._reload_weights(**(kwargs or {}))
        return [None]

    def _reload_weights(
        self,
        weights_iterator: Iterable[tuple[str, Tensor]] | None = None,
        weights_path: str | None = None,
        is_checkpoint_format: bool = True,
    ) -> None:
        assert weights_iterator is not None and weights_path is None and is_checkpoint_format
        assert "weights" not in self.asleep
        self.calls.append("reload_weights")
        given = dict(weights_iterator)
        missing, unknown = self.network.load_state_dict(given, strict=False)
        assert not unknown and set(missing) <= set(self.network.all_tied_weights_keys)
        self.network.tie_weights()
        self.cached = bool(self.requests)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """Forget the keys and values of prompts."""
        self.calls.append("reset_prefix_cache")
        self.cached = False
        return True

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Free the memory; level 2 forgets the weights."""
        assert self.arguments["enable_sleep_mode"] and level == 2 and mode == "abort"
        self.calls.append("sleep")
        self.asleep = {"weights", "kv_cache"}
        self.cached = False
        self._dummy()

    def wake_up(self, tags: list[str] | None = None) -> bool:
        """Take memory again, empty."""
        self.calls.append(f"wake_up {','.join(tags or ['all'])}")
        self.asleep -= set(tags or self.asleep)
        return not self.asleep


def fake_module() -> ModuleType:
    """The package vllm."""
    LLM.started.clear()
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    return module  # type: ignore[no-any-return]
