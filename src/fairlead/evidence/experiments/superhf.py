"""SuperHF: whether the KL prior holds a hackable reward back, and whether best of n inside the loop goes further than once.

Knows: a proxy that pays for ignoring the prompt, and the gold reward behind it.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.evaluation import meteor
from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import HackableReward, TokenWorld

__all__ = ["SuperHF", "hacking_figures"]

_BETA, _PAYS, _HARMLESS = 0.35, 1.3, 0.8
_STEPS, _PROMPTS, _SAMPLES, _RATE, _LENGTH = 60, 8, 16, 3e-3, 4
_SHOWN, _RIGHT = 600, 0.5
_PAIRS = 2000


class SuperHF(Experiment, name="superhf"):
    """Iterated best of n with a KL prior against the same without, and against best of n once, at equal samples.

    Source: Mukobi et al. 2023 (SuperHF, arXiv 2310.16763).
    """

    claim: ClassVar[str] = (
        "A forward KL to the first policy keeps iterated best-of-n from hacking its reward, which the similarity of answers to different "
        "prompts shows, and iterating goes further than best-of-n once from as many samples"
    )
    experiment: ClassVar[str] = (
        "Token world of 1,555 responses to 4 prompts (6 symbols, 4 tokens; another reference policy for every seed). Gold counts the "
        f"symbols that are the prompt's last one; the proxy adds {_PAYS:g} for each f. The first policy has imitated {_SHOWN} responses whose symbols are "
        f"that one with probability {_RIGHT:g} and else any other (AdamW at 2e-3, batch 32, 10 epochs). {_STEPS} steps of {_PROMPTS} prompts with {_SAMPLES} samples, the best of "
        f"each imitated, AdamW at {_RATE:g} falling linearly, β = {_BETA:g} with the mean over responses. gold_shortfall is {_LENGTH} less the expected gold, "
        f"proxy_shortfall {_LENGTH * _PAYS:g} less the expected proxy, kl that of the policy from the first one, all exact; similarity the mean METEOR (equal "
        f"words only) of {_PAIRS:,} pairs of answers to different prompts. once is best-of-n of as many samples of the first policy, learned from in "
        f"as many steps; harmless the run without KL where f pays {_HARMLESS:g}. proxy_over_once is the proxy shortfall over that of once, "
        "harmless_over_hacked the similarity of harmless over that of the baseline."
    )
    baseline: ClassVar[str] = "the same with β = 0"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("gold_shortfall", 0.95),
        Better("similarity", 0.9),
        Better("kl", 0.8),
        AtMost("proxy_over_once", 0.9),
        AtMost("harmless_over_hacked", 0.6),
    )
    remarks: ClassVar[str] = (
        "A first run, from a random first policy, did not hold (revision a56fca9): gold_shortfall was 3.84 ± 0.0083 against 4 ± 0.0021, "
        "which is 0.96 of it where 0.95 was asked; the other rules held. That policy's own gold shortfall was 3.36 to 3.58, so that there was "
        "little gold to lose. The paper starts from models that follow instructions. This run does so, under the same rules. The prior slows the hack down and does not prevent it: from 2.0 at the "
        "start the gold shortfall rises to 3.5, and only best-of-n once, which moves least, lowers it."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = _laboratory(seed, folder)
        ours, theirs = (hacking_figures(lab, _train(lab, seed, beta)) for beta in (_BETA, 0.0))
        at_once = {"steps": 1, "batch_size": _STEPS * _PROMPTS, "minibatches": _STEPS}
        others = {
            "once": hacking_figures(lab, _train(lab, seed, _BETA, **at_once)),
            "harmless": hacking_figures(lab, _train(lab, seed, 0.0, _HARMLESS), _HARMLESS),
            "at_start": hacking_figures(lab, lab.log_reference),
        }
        for name, figures in others.items():
            ours |= {f"{figure}_{name}": value for figure, value in figures.items()}
        ours["proxy_over_once"] = ours["proxy_shortfall"] / ours["proxy_shortfall_once"]
        ours["harmless_over_hacked"] = ours["similarity_harmless"] / theirs["similarity"]
        return Measurement(ours, theirs)


def _laboratory(seed: int, folder: Path) -> Laboratory:
    """A world whose first policy knows something of the answer, as a model that is tuned to follow instructions does."""
    lab = Laboratory(TokenWorld(symbols=6, maximum_tokens=_LENGTH, prompts=4, seed=seed), folder)
    odds = math.log(_RIGHT / (1 - _RIGHT) * (len(lab.world.symbols) - 1))
    shown = torch.log_softmax(odds * _rewards(lab.world, 0.0).double(), -1)
    imitation = {
        "part": "sft",
        "data": str(lab.demonstrations(shown, _SHOWN, seed)),
        "packed": False,
        "batch_size": 32,
        "epochs": 10,
        "optimiser": {"learning_rate": 2e-3},
    }
    lab.reference = lab.run(imitation, seed, "imitation").model
    return lab


def _rewards(world: TokenWorld, pays: float) -> Tensor:
    """[X, Y]: gold, and what each f pays."""
    judge = HackableReward(pays=pays)
    return torch.tensor([[judge.score(prompt, text) for text in world.texts] for prompt in world.prompts])


def _train(lab: Laboratory, seed: int, beta: float, pays: float = _PAYS, **changes: Any) -> Tensor:
    prior = {"part": "kl", "coefficient": beta}
    if beta:
        prior |= {"place": "loss", "estimator": "exact-forward", "reduction": "mean"}
    stage = lab.online(
        _STEPS,
        _PROMPTS,
        _SAMPLES,
        _RATE,
        rewards={"proxy": {"part": "hackable", "pays": pays}},
        selection=["best-of-n"],
        regulariser=prior,
        credit="uniform",
        objective="filtered-nll",
    )
    return lab.run(stage | changes, seed).log_policy


def hacking_figures(lab: Laboratory, log_policy: Tensor, pays: float = _PAYS) -> dict[str, float]:
    """Shortfalls of gold and proxy, KL from the reference, similarity of answers to different prompts."""
    world = lab.world
    policy = log_policy.exp()
    found = {}
    for name, weight in (("gold", 0.0), ("proxy", pays)):
        reward = float((policy * _rewards(world, weight)).sum(-1).mean())
        found[f"{name}_shortfall"] = world.maximum_tokens * max(weight, 1.0) - reward
    found["kl"] = float(world.divergence(log_policy, lab.log_reference).mean())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(policy, _PAIRS, replacement=True, generator=generator)  # [X, pairs]
    pairs = [torch.randperm(len(world.prompts), generator=generator)[:2].tolist() for _ in range(_PAIRS)]
    alike = [meteor(*(world.texts[int(drawn[x, i])] for x in pair)) for i, pair in enumerate(pairs)]
    found["similarity"] = sum(alike) / len(alike)
    return found
