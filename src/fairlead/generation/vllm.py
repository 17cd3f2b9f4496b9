"""Sampling with vLLM, behind the interface of the engine: for machines with a GPU.

Knows: vLLM's offline interface (`LLM`, `SamplingParams`, `reload_weights`, sleep mode), how samples are read from it.
Does not know: how the model is trained, other roles, stages.

vLLM runs in the process that trains, on the same device, so that new weights are a copy within the device's memory: no
other process, no file. A process holds one vLLM engine. Its weights are those of the model that was asked last; a model of
another architecture replaces it. The package is imported when the first sampler is made, and never otherwise.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import importlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, distributed

from fairlead.batch import Prompts, Samples, right_pad, row_table
from fairlead.generation.engine import Codec, check_lengths
from fairlead.generation.sampling import Sampling, TreeSampling
from fairlead.generation.stops import StopStrings
from fairlead.models import checkpoint_weights, context_of, plain_model

__all__ = ["VllmSampler", "VllmSpec"]

_OURS = frozenset(
    {
        "model",
        "tokenizer",
        "dtype",
        "load_format",
        "max_model_len",
        "gpu_memory_utilization",
        "enable_sleep_mode",
        "logprobs_mode",
        "generation_config",
        "distributed_executor_backend",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
    }
)
_NO_SEED = -1  # vLLM takes it as "none"


class VllmSpec(BaseModel):
    """How vLLM is set up."""

    model_config = ConfigDict(extra="forbid")

    memory: float = Field(
        0.4, gt=0, le=1, description="share of the device's memory for vLLM's weights and cache while it samples"
    )
    context: int | None = Field(
        None, ge=1, description="longest prompt and response together, in tokens; null: the model's context"
    )
    sleep: bool = Field(
        True,
        description="give the memory back between rollouts; false: keep it until the run ends, and save the moving",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of `vllm.LLM`, as they are (`enforce_eager: true`)"
    )

    @field_validator("options")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(_OURS & set(value))
        if taken:
            raise ValueError(
                f"{', '.join(taken)} cannot be set here: Fairlead sets it (memory, context and sleep are keys of their own)"
            )
        return value


@dataclass
class _Running:
    """The vLLM engine of this process."""

    key: tuple[str, ...]
    llm: Any
    directory: tempfile.TemporaryDirectory[str]
    """Configuration and tokenizer, from which vLLM was started."""
    holder: VllmSampler | None = None
    """Whose weights it has; None when they are nobody's, or old."""
    awake: bool = True


class VllmSampler:
    """Answers prompts with vLLM as `generation.generate` does with the model itself.

    What is the same: prompts are token ids, a row has its own seed, the end token belongs to the response, stop strings and
    the minimum length mean the same, `ContextError` is raised for what does not fit.

    What differs:

    * The seeds are those of the engine, the random numbers are vLLM's, so the same seed gives another response than the
      engine's. It gives the same one again only where vLLM's kernels do not depend on the batch (VLLM_BATCH_INVARIANT=1).
    * `logprobs` and `sampling_logprobs` come from vLLM's arithmetic, not from the trainer's.
    * vLLM reports one log-probability of a token, and is asked for that under the distribution that was sampled from.
      The one at temperature 1 without filters follows from it only where both distributions are the same, or at
      temperature 0. Elsewhere `logprobs` is NaN: with a filter, at another temperature, and before `minimum_tokens`.
    * vLLM applies min-p before top-k and top-p. With min-p together with top-p fewer tokens may be left than in the engine.
    * vLLM takes temperatures of 0 and from 0.01 to 2; it raises a smaller one to 0.01 and refuses a larger one.
    """

    _running: ClassVar[_Running | None] = None

    def __init__(self, spec: VllmSpec, tokenizer: Any, dtype: str) -> None:
        """`dtype` is the arithmetic of vLLM. Raises RuntimeError where vLLM is not installed."""
        self.spec, self.tokenizer, self.dtype = spec, tokenizer, dtype
        self._vllm = _import_vllm()

    def outdated(self) -> None:
        """The model's weights have changed: the next call brings vLLM the new ones."""
        running = VllmSampler._running
        if running is not None and running.holder is self:
            running.holder = None

    @torch.no_grad()
    def generate(self, model: Any, codec: Codec, prompts: Prompts, sampling: Sampling) -> Samples:
        """One response for each row of `prompts`, on the CPU.

        Raises: ContextError when a prompt and `maximum_tokens` exceed the context; ValueError for an empty prompt, and where
        responses are to grow as a tree.
        """
        if isinstance(sampling, TreeSampling):
            raise ValueError(
                "vLLM samples each response by itself and cannot grow trees: set runtime.sampler=own, or another rollout.part"
            )
        prompts = prompts.to("cpu")
        limit = self.spec.context or context_of(plain_model(model).config)
        check_lengths(prompts.prompt_mask.sum(1).tolist(), sampling.maximum_tokens, limit)
        ends = sorted({*codec.end_ids, *sampling.stop_tokens})
        requests = [
            {"prompt_token_ids": ids[mask].tolist()}
            for ids, mask in zip(prompts.prompt_ids, prompts.prompt_mask, strict=True)
        ]
        settings = [self._settings(sampling, ends, seed) for seed in prompts.seed.tolist()]
        # A rank without rows starts vLLM too: where there are several ranks, they start it together.
        running = self._start(model, limit)
        try:
            self._bring_weights(running, model)
            answers = running.llm.generate(requests, settings, use_tqdm=False) if requests else []
        finally:
            self._rest(running)
        return _samples([answer.outputs[0] for answer in answers], prompts, sampling, codec, ends)

    def _settings(self, sampling: Sampling, ends: list[int], seed: int) -> Any:
        """The request's `SamplingParams`."""
        stop = [string for string in sampling.stop if string]
        return self._vllm.SamplingParams(
            max_tokens=sampling.maximum_tokens,
            min_tokens=min(sampling.minimum_tokens, sampling.maximum_tokens),  # vLLM refuses a larger one
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=2**63 - 1 if seed == _NO_SEED else seed,
            stop=stop,
            detokenize=bool(stop),  # the codec decodes; vLLM needs texts for stop strings only
            stop_token_ids=ends,
            ignore_eos=True,  # what ends a response is said by the codec, not by the checkpoint
            logprobs=0,  # of the chosen token alone
        )

    # -- the engine of the process -----------------------------------------------------------------------------------

    def _start(self, model: Any, limit: int | None) -> _Running:
        """The engine for the architecture of `model`, started if another one runs or none."""
        config = _configuration(model)
        key = (config, _digest(self.tokenizer), self.dtype, self.spec.model_dump_json())
        running = VllmSampler._running
        if running is None or running.key != key:
            running = VllmSampler._running = None
            gc.collect()  # vLLM frees an engine's memory when the engine is collected
            _empty_cache()
            directory = tempfile.TemporaryDirectory(prefix="fairlead-vllm-")
            (Path(directory.name) / "config.json").write_text(config, encoding="utf-8")
            self.tokenizer.save_pretrained(directory.name)
            llm = self._vllm.LLM(
                model=directory.name,
                dtype=self.dtype,
                load_format="dummy",  # the weights are brought, so nothing is read from a checkpoint
                max_model_len=limit,
                gpu_memory_utilization=self.spec.memory,
                enable_sleep_mode=self.spec.sleep,
                logprobs_mode="processed_logprobs",
                generation_config="vllm",  # no settings of the checkpoint
                distributed_executor_backend=_executor(),
                **self.spec.options,
            )
            running = VllmSampler._running = _Running(key, llm, directory)
        return running

    def _bring_weights(self, running: _Running, model: Any) -> None:
        """Wake vLLM, and give it the model's weights unless it has them."""
        if not running.awake:
            _empty_cache()  # what the trainer has freed, but torch holds, cannot be mapped by vLLM
            running.llm.wake_up(tags=["weights"])
        if running.holder is not self:
            weights = iter(checkpoint_weights(model).items())
            running.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not running.awake:
            running.llm.wake_up(tags=["kv_cache"])
            running.awake = True
        if running.holder is not self:
            running.llm.reset_prefix_cache()  # keys and values of the old weights
            running.holder = self

    def _rest(self, running: _Running) -> None:
        """Give memory back. Level 2 drops the weights, which the next rollout brings anyway."""
        if self.spec.sleep and running.awake:
            running.llm.sleep(level=2)
            running.awake, running.holder = False, None


def _samples(answers: list[Any], prompts: Prompts, sampling: Sampling, codec: Codec, ends: list[int]) -> Samples:
    """`Samples` from the completions of vLLM, in the order of the rows."""
    ids = [list(answer.token_ids) for answer in answers]
    tokens, mask = right_pad(ids, codec.padding_id)
    reported = torch.zeros(mask.shape, dtype=torch.float32)
    ended, texts = [], []
    stops = StopStrings(sampling.stop, codec.decode)
    for row, (response, answer) in enumerate(zip(ids, answers, strict=True)):
        if answer.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended the request of row {row} with {answer.finish_reason!r}, not an answer")
        found = [at[token].logprob for token, at in zip(response, answer.logprobs, strict=True)]
        reported[row, : len(found)] = torch.tensor(found)
        ended.append(answer.finish_reason == "stop")
        if not ended[-1]:
            texts.append(codec.decode(response))
        else:
            texts.append(codec.decode(response[:-1]) if response[-1] in ends else stops.text(response))
    return Samples(
        prompt_ids=prompts.prompt_ids,
        prompt_mask=prompts.prompt_mask,
        tokens=tokens,
        mask=mask,
        group=prompts.group,
        seed=prompts.seed,
        logprobs=_own_logprobs(reported, mask, sampling),
        sampling_logprobs=reported if sampling.temperature > 0 else torch.zeros_like(reported),
        truncated=~torch.tensor(ended, dtype=torch.bool),
        rows=row_table([{**row, "response": text} for row, text in zip(prompts.rows, texts, strict=True)]),
        batch_size=[len(answers)],
        device=prompts.device,
    )


def _own_logprobs(reported: Tensor, mask: Tensor, sampling: Sampling) -> Tensor:
    """[B, T] log-probabilities at temperature 1 without filters, from those that vLLM reports; NaN where they do not follow."""
    # At temperature 0 vLLM reports the model's own distribution.
    known = torch.full_like(mask, sampling.plain or sampling.temperature == 0.0)
    known[:, : sampling.minimum_tokens] = False  # the end tokens were taken out
    return torch.where(known | ~mask, reported, float("nan"))


def _configuration(model: Any) -> str:
    """The model's configuration as a config.json that does not depend on where the model came from."""
    plain = plain_model(model)
    config = copy.deepcopy(plain.config)
    config.architectures = [type(plain).__name__]
    fields = json.loads(config.to_json_string())
    fields.pop("dtype", None)  # said to vLLM as an argument
    return json.dumps(fields, sort_keys=True)


def _digest(tokenizer: Any) -> str:
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()


def _executor() -> str:
    """Where vLLM's worker runs: in this process, beside those of other ranks if there are any."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return "uni"
    # vLLM asks the environment, as torchrun would have set it. Each rank sees one device.
    os.environ |= {
        "RANK": str(distributed.get_rank()),
        "WORLD_SIZE": str(distributed.get_world_size()),
        "LOCAL_RANK": "0",
    }
    return "external_launcher"


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _import_vllm() -> Any:
    """The package vllm, set to run in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else weights would have to be sent to another process
    try:
        return cast(Any, importlib.import_module("vllm"))
    except ImportError as error:
        raise RuntimeError(
            f"runtime.sampler is vllm, but vLLM cannot be imported ({error}): on a machine with a GPU "
            'pip install "fairlead[vllm]", or set runtime.sampler=own'
        ) from error
