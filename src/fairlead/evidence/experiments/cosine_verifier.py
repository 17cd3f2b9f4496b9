"""The cascade of verifiers on generated answers, and what a verifier's false negatives do to a policy.

Knows: pairs of answers, rewards, the token world.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.rewards import CosineVerifier, ExactReward, MathReward, PooledReward
from fairlead.worlds import TokenWorld
from fairlead.worlds.arithmetic import PAIR_KINDS, AnswerPair, answer_pairs

__all__ = ["CosineVerifierExperiment"]

_EACH = 100
_STEPS = 20


class CosineVerifierExperiment(Experiment, name="cosine-verifier"):
    """Tools for units and rounding against a rule, and two verifiers as the reward of a policy with two forms of an answer.

    Source: CoSineVerifier (2025, arXiv 2512.01224), results on verification; the worlds are this package's.
    """

    claim: ClassVar[str] = (
        "A verifier with tools judges what a rule gets wrong, and its fewer false negatives leave a policy its forms of answering"
    )
    experiment: ClassVar[str] = (
        f"{_EACH} generated pairs of answer and reference of each of five kinds, every other one right: expanded fractions, fractions "
        "rounded to two decimals, factored and expanded polynomials, changed units (half of the wrong ones keep the number), letters. "
        "error is the share judged wrongly. The judge is the program: rule, unit conversion, rounding, equality at four points. "
        "Then a token world of two symbols, the two forms of a right answer, in which the reward of an empty response is 0: GRPO, no KL, "
        f"4 samples of 16 prompts, {_STEPS} rollouts, AdamW at 3e-3, with a verifier that accepts both forms, or one only. form_loss is "
        "how much of the entropy over the two forms is lost, in nats, exact."
    )
    baseline: ClassVar[str] = "Math-Verify, units dropped, 6 decimals; as a reward, a verifier that rejects one form"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("error", 0.25),
        AtMost("error", 0.02),
        Better("form_loss", 0.5, except_for=1),
    )
    remarks: ClassVar[str] = (
        "No language model judges here: the shipped one is too small for it. The figures test the rule, the tools and the cascade, "
        "not how well a model uses them. error_text is that of a comparison of texts."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        pairs = answer_pairs(_EACH, seed)
        ours = _errors(CosineVerifier(judge="program"), pairs)
        rule = _errors(MathReward(), pairs)
        text = _errors(ExactReward(extract=r"\\boxed\{(.*)\}"), pairs)
        lab = Laboratory(TokenWorld(symbols=2, maximum_tokens=1, prompts=2, seed=seed), folder)
        return Measurement(
            ours | {"form_loss": _form_loss(lab, seed, "^[ab]$")},
            rule | {"error_text": text["error"], "form_loss": _form_loss(lab, seed, "^a$")},
        )


def _errors(verifier: PooledReward, pairs: list[AnswerPair]) -> dict[str, float]:
    """Share of the pairs judged wrongly, over all and for each kind; a failure is wrong, too."""
    verifier.open(None, "verifier")  # type: ignore[arg-type]  # none of these opens a model
    try:
        rows = [{"prompt": "", "response": f"It is \\boxed{{{pair.answer}}}.", "answer": pair.gold} for pair in pairs]
        wrong = [value != pair.right for value, pair in zip(verifier.judge_rows(rows), pairs, strict=True)]
    finally:
        verifier.close()
    by_kind = {
        f"error_{kind}": sum(w for w, pair in zip(wrong, pairs, strict=True) if pair.kind == kind) / _EACH
        for kind in PAIR_KINDS
    }
    return {"error": sum(wrong) / len(wrong)} | by_kind


def _form_loss(lab: Laboratory, seed: int, accepted: str) -> float:
    """Entropy over the two forms that is lost in training, nats, mean over prompts."""
    changes: dict[str, Any] = {
        "rewards": {"verifier": {"part": "regex", "pattern": accepted}},
        "regulariser": {"part": "kl", "coefficient": 0},
        "credit": "group-relative",
        "selection": ["drop-flat-groups"],
    }
    outcome = lab.run(lab.online(_STEPS, 16, 4, 3e-3, **changes), seed)
    return float(_form_entropy(lab, lab.log_reference) - _form_entropy(lab, outcome.log_policy))


def _form_entropy(lab: Laboratory, log_distribution: Tensor) -> Tensor:
    """Mean over prompts of the entropy of the forms, given that the response is one."""
    forms = [index for index, text in enumerate(lab.world.texts) if text]
    log_forms = log_distribution[:, forms].log_softmax(-1)
    return -(log_forms.exp() * log_forms).sum(-1).mean()
