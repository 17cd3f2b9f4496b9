"""Fairlead's losses beside TRL's on the same numbers: the largest difference of each, loss and gradient.

    python benchmarks/parity/losses.py

Knows: which function of `fairlead.functional` answers which loss of TRL.
Does not know: how TRL computes it (`trl_losses.py` asks it, in its own environment).

Everything is float32 and should agree to 1e-5. Exits with 1 when something does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from peers.install import install, peer_python, ppo_path

from fairlead import functional
from fairlead.bench import write_model, write_scalar_model
from fairlead.data import pack, sequences_batch
from fairlead.models import ModelSpec, load_model
from fairlead.objectives import NegativeLogLikelihood
from fairlead.runtime import forward

TOLERANCE = 1e-5
KINDS = ("grpo", "dpo", "reward", "sft", "ppo")


def make_inputs() -> dict[str, Any]:
    """Log-probabilities with ratios inside and outside the clip range, ragged masks, scores, documents, prompts."""
    torch.manual_seed(0)
    rows, length = 6, 9
    mask = torch.arange(length) < torch.tensor([9, 1, 4, 7, 2, 5])[:, None]
    logprobs = -3 * torch.rand(rows, length)
    ids = [torch.randint(4, 4096, (n,)).tolist() for n in (30, 12, 21, 17, 5)]
    return {
        "mask": mask,
        "logprobs": logprobs,
        "old_logprobs": logprobs + 0.3 * torch.randn(rows, length),
        "reference_logprobs": logprobs + 0.5 * torch.randn(rows, length),
        "advantages": torch.randn(rows),
        "clip_low": 0.2,
        "clip_high": 0.28,
        "kl": 0.04,
        "pair_mask": mask,
        "pair_logprobs": logprobs,
        "pair_reference": logprobs + 0.5 * torch.randn(rows, length),
        "beta": 0.1,
        "scores": 2 * torch.randn(8),
        "margin": torch.rand(4),
        "centring": 0.01,
        "documents": ids,
        "learned": [[place >= len(x) // 3 for place in range(len(x))] for x in ids],
        "ppo_prompts": [torch.randint(4, 4096, (5,)).tolist() for _ in range(8)],
        "value_clip": 0.2,
        "gamma": 0.99,
        "lam": 0.95,
    }


def with_gradient(loss: Tensor, source: Tensor, name: str) -> dict[str, Tensor]:
    return {name: loss.detach(), f"{name} gradient": torch.autograd.grad(loss, source)[0]}


def grpo(given: dict[str, Any]) -> dict[str, Tensor]:
    mask, old, reference = given["mask"], given["old_logprobs"], given["reference_logprobs"]
    advantages = functional.broadcast_to_tokens(given["advantages"], mask)
    low, high = given["clip_low"], given["clip_high"]
    modes = {
        "grpo": "sequence-mean-token-mean",
        "dapo": "token-mean",
        "bnpo": "token-mean",
        "cispo": "token-mean",
        "dr_grpo": "constant-length",
    }
    found: dict[str, Tensor] = {}
    for kind, mode in modes.items():
        for kl in ("", "k3", "k3-ratio"):
            logprobs = given["logprobs"].clone().requires_grad_()
            if kind == "cispo":
                loss = functional.cispo(logprobs, old, advantages, 0.0, 5.0, mask=mask)
            else:
                loss = functional.ppo_clip(logprobs, old, advantages, low, high, mask=mask)
            if kl:
                loss = loss + given["kl"] * functional.kl_loss(logprobs, old, reference, kl, mask=mask)
            weights = functional.aggregation_weights(mask, mode, maximum_length=mask.shape[1])
            found |= with_gradient((weights * loss).sum(), logprobs, " ".join(filter(None, (kind, "token", kl))))
    logprobs = given["logprobs"].clone().requires_grad_()
    loss = functional.gspo(logprobs, old, advantages, mask, low, high)
    weights = functional.aggregation_weights(mask, "sequence-mean-token-mean")
    return found | with_gradient((weights * loss).sum(), logprobs, "grpo sequence")


def dpo(given: dict[str, Any]) -> dict[str, Tensor]:
    mask, found = given["pair_mask"], dict[str, Tensor]()
    for kind in ("sigmoid", "hinge", "ipo"):
        logprobs = given["pair_logprobs"].clone().requires_grad_()
        policy, reference = (functional.masked_sum(x, mask, 1) for x in (logprobs, given["pair_reference"]))
        if kind == "ipo":
            policy, reference = policy / mask.sum(1), reference / mask.sum(1)
        pairs = len(mask) // 2
        loss, _, _ = functional.dpo(
            policy[:pairs], policy[pairs:], reference[:pairs], reference[pairs:], given["beta"], kind
        )
        found |= with_gradient(loss.mean(), logprobs, f"dpo {kind}")
    return found


def reward(given: dict[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, margin, centring in (("plain", False, 0.0), ("margin", True, 0.0), ("centring", True, given["centring"])):
        scores = given["scores"].clone().requires_grad_()
        chosen, rejected = scores.chunk(2)
        loss = functional.bradley_terry(chosen, rejected, given["margin"] if margin else None, centring).mean()
        found |= with_gradient(loss, scores, f"bradley-terry {name}")
    return found


def sft(given: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    model = load_model(ModelSpec(path=str(folder / "causal")))
    documents = list(zip(given["documents"], given["learned"], strict=True))
    objective, found = NegativeLogLikelihood(), {}
    for name, rows in (("sft", documents), ("sft packed", pack(documents, 64))):
        batch = objective.prepare(sequences_batch(rows, 0))
        with torch.no_grad():
            found[name] = objective(forward(model, batch, objective.needs), batch)[0]
    return found


def ppo(given: dict[str, Any], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each of PPO's pieces from what TRL fed its own piece with, so that differences do not add up."""
    mask, with_end = theirs["mask"], theirs["mask with end"]
    penalty = functional.kl_estimate(theirs["logprobs"], theirs["reference_logprobs"], "k1", mask=mask)
    old_values = functional.mask_out(theirs["old_values"], with_end)
    everywhere = torch.ones_like(mask)
    advantages, returns = functional.gae(theirs["rewards"], old_values, everywhere, given["gamma"], given["lam"])
    old = theirs["logprobs"]
    policy, value = [], []
    for logprobs, values in zip(theirs["new logprobs"], theirs["new values"], strict=True):
        policy.append(
            functional.ppo_clip(logprobs, old, theirs["advantages"], given["clip_low"], given["clip_low"], mask=mask)
        )
        value.append(2 * functional.value_loss(values, old_values, returns, given["value_clip"], mask=with_end))
    return {
        "raw rewards": functional.place_at_last_token(theirs["scores"], with_end) - given["kl"] * penalty,
        "rewards": functional.whiten(theirs["raw rewards"], with_end, shift_mean=False),
        "gae": advantages,
        "advantages": functional.whiten(theirs["gae"], mask),
        "policy clip": torch.stack(policy),
        "value clip": torch.stack(value),
    }


def ask_trl(folder: Path, kind: str) -> dict[str, Tensor]:
    extra = {"PYTHONPATH": str(ppo_path()) if kind == "ppo" else "", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).resolve().parent / "trl_losses.py"
    done = subprocess.run(
        [str(peer_python()), str(script), str(folder), kind], env=os.environ | extra, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Tensor] = torch.load(folder / f"{kind}.pt")
    return found


def main() -> None:
    install()
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="parity-") as place:
        folder = Path(place)
        write_model(folder / "causal", "1m", mean_length=8)
        write_scalar_model(folder / "scalar", "1m")
        given = make_inputs()
        torch.save(given, folder / "inputs.pt")
        print(f"{'loss':34} largest difference")
        for kind in KINDS:
            theirs = ask_trl(folder, kind)
            if kind == "sft":
                ours = sft(given, folder)
            elif kind == "ppo":
                ours = ppo(given, theirs)
            else:
                ours = {"grpo": grpo, "dpo": dpo, "reward": reward}[kind](given)
            for name, mine in ours.items():
                difference = float((mine - theirs[name]).abs().max())
                worst = max(worst, difference)
                print(f"{f'ppo {name}' if kind == 'ppo' else name:34} {difference:.1e}")
    print(f"{'all':34} {worst:.1e}")
    if not worst <= TOLERANCE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
