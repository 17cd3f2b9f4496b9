"""One model in one process: what every back end runs, alone or as one of several replicas.

Knows: the model, its optimiser, micro-batching by token budget, devices.
Does not know: other roles, stages, recipes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.batch import Batch, Prompts, Samples, take
from fairlead.data import TextCodec
from fairlead.generation import Mixing, Sampling, VllmSampler, Watcher, generate
from fairlead.models import adapter_off, export_model, load_model, load_tokenizer, merged_weights, plain_model
from fairlead.runtime.forward import Outputs, forward
from fairlead.runtime.group import GroupSpec, Lesson, add_metrics, exceeds_limits
from fairlead.runtime.memory import set_up_memory
from fairlead.runtime.microbatches import microbatches, training_budget
from fairlead.runtime.optimiser import OptimiserSpec, build_optimiser, set_learning_rate
from fairlead.runtime.ragged import knows_ragged_rows

__all__ = ["ModelWorker"]

_STATE_FILE = "training_state.pt"
_INFERENCE_TOKENS = {"cpu": 4096}
_GOLDEN = 0x9E3779B1  # spreads ranks over 32 bits, which is all that torch's CPU generator looks at


class ModelWorker:
    """The model of a group (or one replica of it) with everything needed to use and train it."""

    def __init__(self, spec: GroupSpec, device: str | None = None, rank: int = 0) -> None:
        set_up_memory()
        self.spec = spec
        self.rank = rank
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with torch.random.fork_rng(devices=[]):
            # New weights (`initialise`, adapters) are the same in every replica and every run of the recipe.
            torch.manual_seed(spec.weights_seed)
            self.model = load_model(spec.model, spec.kind, spec.labels, spec.value_head).to(self.device)
        tokenizer = load_tokenizer(spec.model)
        self.codec = TextCodec(tokenizer)
        self.sampler: VllmSampler | None = None
        if spec.vllm is not None:
            arithmetic = spec.model.dtype if spec.precision == "float32" else spec.precision
            self.sampler = VllmSampler(spec.vllm, tokenizer, arithmetic)
        self.steps = 0
        self.rate_factor = 1.0  # of the scheduled learning rate
        self.optimiser: torch.optim.Optimizer | None = None
        if spec.optimiser is not None:
            self.optimiser = build_optimiser(self.model, spec.optimiser)
        else:
            self.model.requires_grad_(False)

    # -- reading -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompts,
        sampling: Sampling,
        finished: Watcher | None = None,
        share: float = 0.0,
        other: ModelWorker | None = None,
    ) -> Samples:
        """One response for each row; the own engine tells `finished` each of them early.

        `share` above 0 mixes in the logits of `other`, or of this model without its adapters.
        """
        if self.sampler is not None:
            if share:
                raise ValueError("vLLM cannot sample from a mixture of two models: set runtime.sampler to own")
            return self.sampler.generate(self.model, self.codec, prompts, sampling)
        self.model.eval()
        mixing = Mixing(None if other is None else other.model, share) if share else None
        with self._precision():
            return generate(
                self.model, self.codec, prompts.to(self.device), sampling, mixing=mixing, finished=finished
            ).to("cpu")

    @torch.no_grad()
    def outputs(
        self, batch: Batch, needs: tuple[str, ...], temperature: float = 1.0, reference: bool = False
    ) -> Outputs:
        """Outputs of every row, on the CPU."""
        self.model.eval()
        found = Outputs()
        budget = _INFERENCE_TOKENS.get(self.device.type, 16384)
        with self._precision(), adapter_off(self.model) if reference else nullcontext():
            for rows in microbatches(batch, budget, knows_ragged_rows(self.model)):
                part = forward(self.model, take(_tensors(batch), rows).to(self.device), needs, temperature)
                for name in needs:
                    value: Tensor = getattr(part, name).float().cpu()
                    whole = getattr(found, name)
                    if whole is None:
                        whole = value.new_zeros(_output_shape(batch, name, value))
                        setattr(found, name, whole)
                    if name == "scores":
                        whole[rows] = value
                    else:
                        whole[rows, ..., : value.shape[-1]] = value
        return found

    # -- training ----------------------------------------------------------------------------------------------------

    def accumulate(self, lesson: Lesson, reference: ModelWorker | None = None) -> dict[str, float]:
        """Add the gradient of a (prepared) lesson to the parameters; returns metric sums."""
        other = None if reference is None else reference.model
        spec, objective = self._optimiser_spec(), lesson.objective
        self.model.train()
        # Dropout continues the same after a resume, and differs from rank to rank.
        torch.manual_seed(self.spec.seed + self.steps + self.rank * _GOLDEN)
        totals: dict[str, float] = {}
        tensors = _tensors(lesson.batch)
        budget = spec.tokens_per_microbatch or training_budget(plain_model(self.model).config, self.device.type)
        for rows in microbatches(lesson.batch, budget, knows_ragged_rows(self.model)):
            micro = take(tensors, rows).to(self.device)
            with self._precision():
                outputs = forward(self.model, micro, objective.needs, objective.temperature, reference=other)
            loss, metrics = objective(outputs, micro)
            (loss if lesson.weight == 1.0 else lesson.weight * loss).backward()  # type: ignore[no-untyped-call]
            add_metrics(totals, {name: float(value.detach()) for name, value in {"loss": loss, **metrics}.items()})
        return lesson.named(totals)

    def finish_step(self) -> dict[str, float]:
        """Clip, step, clear. A gradient that is not finite is dropped and counted, never applied."""
        spec = self._optimiser_spec()
        assert self.optimiser is not None
        limit = float("inf") if spec.maximum_gradient_norm is None else spec.maximum_gradient_norm
        parameters = self.trained()
        total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = float(total)
        # torch's `clip_grad_norm_` multiplies by one where nothing is clipped, which takes a pass over all gradients.
        if norm + 1e-6 > limit:
            nn.utils.clip_grads_with_norm_(parameters, limit, total)
        rate = set_learning_rate(self.optimiser, spec, self.steps, self.rate_factor)
        finite = norm == norm and norm != float("inf")
        if finite:
            self.optimiser.step()
            self._weights_changed()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        return {
            "gradient_norm": norm if finite else 0.0,
            "learning_rate": rate,
            "skipped_steps": 0.0 if finite else 1.0,
        }

    def leave_step(self) -> dict[str, float]:
        """Forget the gradient in place of a step."""
        self.drop_gradient()
        return {"stopped": 1.0}

    def step(self, lessons: Sequence[Lesson], reference: ModelWorker | None = None) -> dict[str, float]:
        """Gradient of all lessons, and one optimiser step where no metric exceeds a limit."""
        sums: dict[str, float] = {}
        for lesson in lessons:
            sums |= self.accumulate(lesson, reference)
        return sums | (self.leave_step() if exceeds_limits(lessons, sums) else self.finish_step())

    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained, in a fixed order."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def drop_gradient(self) -> None:
        """Forget what was accumulated."""
        for parameter in self.trained():
            parameter.grad = None

    # -- keeping -----------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Full weights on the CPU, adapters merged."""
        return {name: tensor.detach().cpu().clone() for name, tensor in merged_weights(self.model).items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Replace the weights of the plain model in place."""
        if self.spec.model.lora is not None:
            raise ValueError(
                f"the {self.spec.role} group trains adapters and cannot take whole weights, which would also change its reference; "
                "open it without lora"
            )
        current = merged_weights(self.model)
        wrong = sorted(set(weights) ^ set(current)) or [n for n, t in weights.items() if t.shape != current[n].shape]
        if wrong:
            raise ValueError(f"weights do not fit {self.spec.role}: {', '.join(wrong[:5])}")
        self.model.load_state_dict(weights, strict=False)  # a value head stays as it is
        self._weights_changed()

    def save(self, directory: Path) -> None:
        """Trained weights, optimiser and step count."""
        directory.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach().cpu() for n, p in self.model.named_parameters() if p.requires_grad}
        optimiser = None if self.optimiser is None else self.optimiser.state_dict()
        state = {"weights": trained, "optimiser": optimiser, "steps": self.steps, "rate_factor": self.rate_factor}
        torch.save(state, directory / _STATE_FILE)

    def load(self, directory: Path) -> None:
        """Continue from `save`."""
        state = torch.load(directory / _STATE_FILE, map_location=self.device, weights_only=True)
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in state["weights"].items():
                own[name].copy_(value)
        self._weights_changed()
        if self.optimiser is not None:
            self.optimiser.load_state_dict(state["optimiser"])
        self.steps = int(state["steps"])
        self.rate_factor = float(state.get("rate_factor", 1.0))  # checkpoints of earlier versions have none

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rate of every later step by `factor`."""
        self.rate_factor *= factor

    def export(self, directory: Path, dtype: str | None = None) -> None:
        """An ordinary Hugging Face checkpoint."""
        export_model(self.model, directory, self.spec.model, dtype)

    def checksum(self) -> str:
        """A digest of every bit of the trained weights."""
        digest = hashlib.sha256()
        for parameter in self.trained():
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _weights_changed(self) -> None:
        if self.sampler is not None:
            self.sampler.outdated()

    def _optimiser_spec(self) -> OptimiserSpec:
        if self.spec.optimiser is None:
            raise RuntimeError(f"the {self.spec.role} group was opened without an optimiser; it cannot be updated")
        return self.spec.optimiser

    def _precision(self) -> Any:
        if self.spec.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _tensors(batch: Any) -> Any:
    """The batch without its text: models see tensors only."""
    return batch.replace(rows=None) if getattr(batch, "rows", None) is not None else batch


def _output_shape(batch: Any, name: str, value: Tensor) -> tuple[int, ...]:
    leading = tuple(batch.tokens.shape[:-1])
    if name == "scores":
        return leading + tuple(value.shape[len(leading) :])
    return (*leading, batch.tokens.shape[-1])
