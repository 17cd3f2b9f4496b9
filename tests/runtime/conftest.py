"""A tiny model and one batch of each kind that can be learned from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.batch import Experience, Prompts, repeat_rows
from fairlead.data import pack, pairs_batch, prompts_batch, sequences_batch
from fairlead.data.records import PairRecord, PromptRecord
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.objectives import DPO, BradleyTerry, NegativeLogLikelihood, PolicyGradient, PPOClip, ValueClip
from fairlead.runtime import GroupSpec, LocalGroup, OptimiserSpec
from tiny_models import save_tiny_model

TEXTS = ("a", "hello there", "why?", "one two three four", "be brief", "no")

# name → (kind of model, fixture of the batch, objective)
OBJECTIVES: dict[str, tuple[str, str, Any]] = {
    "ppo-token-mean": ("causal", "experience", PPOClip(entropy_coefficient=0.01)),
    "ppo-sequence-mean": ("causal", "experience", PPOClip(aggregation="sequence-mean-token-mean", ratio="geometric")),
    "ppo-sequence-sum": ("causal", "experience", PPOClip(aggregation="sequence-mean-token-sum", dual_clip=3.0)),
    "ppo-constant": ("causal", "experience", PPOClip(aggregation="constant-length", maximum_length=9)),
    "ppo-kl": ("causal", "experience", PPOClip().at_temperature(0.7).with_kl(0.1, "k3")),
    "reinforce": ("causal", "experience", PolicyGradient()),
    "value-clip": ("scalar", "experience", ValueClip()),
    "dpo": ("causal", "pairs", DPO(nll_coefficient=0.1)),
    "bradley-terry": ("scalar", "pairs", BradleyTerry(centring=0.01, margin_scale=0.5)),
    "nll": ("causal", "sequences", NegativeLogLikelihood()),
    "nll-packed-sequence-mean": ("causal", "packed", NegativeLogLikelihood(aggregation="sequence-mean-token-mean")),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for `case` run for every objective."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", OBJECTIVES.values(), ids=OBJECTIVES.keys(), indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """Kind of model, batch, objective."""
    kind, batch, objective = request.param
    return kind, request.getfixturevalue(batch), objective


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def dropout_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with dropout nearly everywhere."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture(scope="session")
def spec(model_path: Path) -> Callable[..., GroupSpec]:
    """A group spec; model and optimiser fields by keyword (`model__dropout=…`), the rest of its own."""

    def make(**fields: Any) -> GroupSpec:
        model = {k.removeprefix("model__"): fields.pop(k) for k in list(fields) if k.startswith("model__")}
        own = {k: fields.pop(k) for k in list(fields) if k in GroupSpec.model_fields}
        optimiser = OptimiserSpec(**({"learning_rate": 1e-3} | fields))
        return GroupSpec(
            **(
                {"role": "policy", "model": ModelSpec(**({"path": str(model_path)} | model)), "optimiser": optimiser}
                | own
            )
        )

    return make


@pytest.fixture(scope="session")
def prompts(model_path: Path) -> Prompts:
    """Twelve rows: six prompts of different lengths, twice each."""
    group = LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(model_path))))
    records = [PromptRecord(prompt=text, columns={"number": index}) for index, text in enumerate(TEXTS)]
    batch = repeat_rows(prompts_batch(records, group.codec, seed=5), 2)
    return batch.replace(seed=batch.seed + torch.arange(12))


@pytest.fixture(scope="session")
def experience(model_path: Path, prompts: Prompts) -> Experience:
    """Samples with everything that an objective may want, a row that does not count, and a row without tokens."""
    group = LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(model_path))))
    samples = group.generate(prompts, Sampling(maximum_tokens=9))
    found = Experience.from_samples(samples)
    found.mask[3, 4:] = False
    found.mask[7] = False
    noise = torch.Generator().manual_seed(1)
    drawn = [torch.randn(found.mask.shape, generator=noise) * found.mask for _ in range(4)]
    logprobs = group.token_logprobs(found)
    found.weight[5] = 0.0
    found.channels["length"] = found.mask.sum(1).float()
    return found.replace(
        logprobs=logprobs + 0.2 * drawn[0],
        reference_logprobs=logprobs + 0.1 * drawn[1],
        advantages=drawn[2],
        values=drawn[3],
        returns=drawn[0] + drawn[3],
    )


@pytest.fixture(scope="session")
def pairs(model_path: Path) -> Any:
    group = LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(model_path))))
    records = [
        PairRecord(prompt=text, chosen="yes " * (1 + index % 3), rejected="no" * (1 + index), margin=index / 4)
        for index, text in enumerate(TEXTS)
    ]
    batch = pairs_batch(records, group.codec)
    batch = batch.replace(weight=torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 0.0]))
    # Not exactly the policy's: at a margin of zero, rounding would decide which side wins.
    noise = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(2))
    return batch.replace(reference_logprobs=group.token_logprobs(batch) + 0.3 * noise * batch.mask)


@pytest.fixture(scope="session")
def sequences() -> Any:
    noise = torch.Generator().manual_seed(6)
    lengths = (3, 12, 6, 18, 9)
    documents = [(torch.randint(4, 250, (n,), generator=noise).tolist(), [True] * n) for n in lengths]
    return sequences_batch(documents, 0)


@pytest.fixture(scope="session")
def packed() -> Any:
    documents = [(list(range(10, 10 + length)), [True] * length) for length in (3, 9, 5, 12, 7, 2)]
    return sequences_batch(pack(documents, 14), 0)
