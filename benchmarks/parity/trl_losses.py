"""What TRL's own loss code makes of given tensors; runs in the peer's environment.

    benchmarks/.peers/trl/bin/python benchmarks/parity/trl_losses.py FOLDER grpo|dpo|reward|sft|ppo

Knows: where TRL computes a loss, and how to hand it log-probabilities in place of a model's.
Does not know: Fairlead. Reads FOLDER/inputs.pt, writes FOLDER/KIND.pt: name → tensor.

The trainers are real ones on a tiny model. Where a loss takes log-probabilities, a stub model returns them; PPO, whose
losses stand in the middle of its training loop, runs a few steps, and what goes in and comes out is caught on the way.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

Tensors = dict[str, torch.Tensor]


def settings(folder: Path, rows: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "scratch"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": rows,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def with_gradient(loss: torch.Tensor, source: torch.Tensor, name: str) -> Tensors:
    """A loss and its gradient in the log-probabilities."""
    return {name: loss.detach(), f"{name} gradient": torch.autograd.grad(loss, source)[0]}


def grpo(folder: Path, given: dict[str, Any]) -> Tensors:
    from trl import GRPOConfig, GRPOTrainer

    mask = given["mask"].long()
    trainer = GRPOTrainer(
        model=str(folder / "causal"),
        reward_funcs=lambda completions, **columns: [0.0] * len(completions),
        args=GRPOConfig(
            **settings(folder, len(mask)), num_generations=2, max_completion_length=mask.shape[1], beta=0.04
        ),
        train_dataset=Dataset.from_list([{"prompt": "w5"}] * 8),
        processing_class=AutoTokenizer.from_pretrained(folder / "causal", padding_side="left"),
    )
    trainer.current_gradient_accumulation_steps = 1
    found: Tensors = {}
    cases = [
        (kind, "token", kl) for kind in ("grpo", "dapo", "dr_grpo", "bnpo", "cispo") for kl in ("", "k3", "k3-ratio")
    ]
    for kind, level, kl in [*cases, ("grpo", "sequence", "")]:
        logprobs = given["logprobs"].clone().requires_grad_()
        trainer._get_per_token_logps_and_entropies = lambda *a, x=logprobs, **k: (x, torch.zeros_like(x), None)
        trainer.loss_type, trainer.importance_sampling_level = kind, level
        trainer.beta = given["kl"] if kl else 0.0
        trainer.args.use_bias_correction_kl = kl == "k3-ratio"
        trainer.epsilon_low, trainer.epsilon_high = given["clip_low"], 5.0 if kind == "cispo" else given["clip_high"]
        loss = trainer._compute_loss(
            trainer.model,
            {
                "prompt_ids": torch.ones(len(mask), 1, dtype=torch.long),
                "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
                "completion_ids": torch.ones_like(mask),
                "completion_mask": mask,
                "advantages": given["advantages"],
                "old_per_token_logps": given["old_logprobs"],
                "ref_per_token_logps": given["reference_logprobs"],
                "num_items_in_batch": mask.sum(),
            },
        )
        found |= with_gradient(loss, logprobs, " ".join(filter(None, (kind, level, kl))))
    return found


def dpo(folder: Path, given: dict[str, Any]) -> Tensors:
    from trl import DPOConfig, DPOTrainer

    mask = given["pair_mask"].long()  # [2B, T]: chosen rows first
    trainer = DPOTrainer(
        model=str(folder / "causal"),
        args=DPOConfig(**settings(folder, 4), beta=given["beta"]),
        train_dataset=Dataset.from_list([{"prompt": "w5", "chosen": " w6", "rejected": " w7"}] * 4),
        processing_class=AutoTokenizer.from_pretrained(folder / "causal"),
    )
    found: Tensors = {}
    for kind in ("sigmoid", "hinge", "ipo"):
        logprobs = given["pair_logprobs"].clone().requires_grad_()
        trainer.loss_types, trainer.loss_weights = [kind], [1.0]
        trainer.ref_model = stub(given["pair_reference"], mask)
        inputs = {"input_ids": padded(mask), "attention_mask": padded(mask), "completion_mask": padded(mask)}
        loss = trainer._compute_loss(stub(logprobs, mask), inputs, return_outputs=False)
        found |= with_gradient(loss, logprobs, f"dpo {kind}")
    return found


def padded(mask: torch.Tensor) -> torch.Tensor:
    """One more position in front, whose label nothing scores."""
    return torch.nn.functional.pad(mask, (1, 0), value=0)


def stub(logprobs: torch.Tensor, mask: torch.Tensor) -> Any:
    """In place of a model: these log-probabilities, and zeros for what only metrics read."""
    from trl.trainer.utils import FusedCausalLMOutput

    zeros = torch.zeros_like(logprobs)
    kept = torch.where(mask.bool(), logprobs, 0.0)
    return lambda **arguments: FusedCausalLMOutput(
        log_probs=kept, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), label_mask=mask.bool()
    )


def reward(folder: Path, given: dict[str, Any]) -> Tensors:
    from trl import RewardConfig, RewardTrainer

    trainer = RewardTrainer(
        model=str(folder / "scalar"),
        args=RewardConfig(**settings(folder, 4)),
        train_dataset=Dataset.from_list([{"chosen_ids": [5], "rejected_ids": [6]}] * 4),
        processing_class=AutoTokenizer.from_pretrained(folder / "scalar"),
    )
    found: Tensors = {}
    for name, margin, centring in (
        ("plain", False, None),
        ("margin", True, None),
        ("centring", True, given["centring"]),
    ):
        scores = given["scores"].clone().requires_grad_()
        trainer.args.center_rewards_coefficient = centring
        inputs: dict[str, Any] = {"attention_mask": torch.ones(len(scores), 1)}
        if margin:
            inputs["margin"] = given["margin"]
        loss = trainer.compute_loss(lambda x=scores, **arguments: SimpleNamespace(logits=x[:, None]), inputs)
        found |= with_gradient(loss, scores, f"bradley-terry {name}")
    return found


def sft(folder: Path, given: dict[str, Any]) -> Tensors:
    from trl import SFTConfig, SFTTrainer

    examples = [
        {"input_ids": ids, "labels": [t if keep else -100 for t, keep in zip(ids, kept, strict=True)]}
        for ids, kept in zip(given["documents"], given["learned"], strict=True)
    ]
    found: Tensors = {}
    for name, packing in (("sft", False), ("sft packed", True)):
        trainer = SFTTrainer(
            model=str(folder / "causal"),
            args=SFTConfig(**settings(folder, len(examples)), max_length=64 if packing else None, packing=packing),
            train_dataset=Dataset.from_list(examples),
            processing_class=AutoTokenizer.from_pretrained(folder / "causal"),
        )
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
        trainer.model.eval()
        with torch.no_grad():
            found[name] = trainer.compute_loss(trainer.model, dict(batch))
    return found


def ppo(folder: Path, given: dict[str, Any]) -> Tensors:
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    caught: dict[str, list[Any]] = {}
    inside: list[bool] = []

    def catch(name: str, pick: Any) -> None:
        plain = getattr(ppo_trainer, name)

        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            outermost = not inside
            inside.append(True)
            try:
                result = plain(*arguments, **keywords)
            finally:
                inside.pop()
            if outermost:
                taken = pick(arguments, result)
                caught.setdefault(name, []).append([x.detach().clone() for x in taken])
            return result

        setattr(ppo_trainer, name, wrapper)

    catch("selective_log_softmax", lambda given, result: [result])
    catch("get_reward", lambda given, result: result[:2])
    catch("masked_whiten", lambda given, result: [given[0], given[1] if len(given) > 1 else given[0], result])
    catch("masked_mean", lambda given, result: given[:2])
    catch("forward", lambda given, result: [result[1]] if isinstance(result, tuple) else [])
    plain_whiten = ppo_trainer.masked_whiten
    ppo_trainer.masked_whiten = lambda values, mask, **keywords: plain_whiten(values, mask, **keywords)
    ppo_trainer.np = SimpleNamespace(random=SimpleNamespace(permutation=np.arange))  # rows stay in order
    rows, tokenizer = 8, AutoTokenizer.from_pretrained(folder / "causal", padding_side="left")
    causal = [AutoModelForCausalLM.from_pretrained(folder / "causal") for _ in range(2)]
    scalar = [AutoModelForSequenceClassification.from_pretrained(folder / "scalar", num_labels=1) for _ in range(2)]
    with torch.no_grad():  # a reference that differs, so that the KL is not zero
        for parameter in causal[1].parameters():
            parameter.mul_(1.05)
    trainer = PPOTrainer(
        args=PPOConfig(
            **settings(folder, rows),
            learning_rate=3e-3,
            total_episodes=rows,
            num_sample_generations=0,
            response_length=16,
            stop_token="eos",
            temperature=1.0,
            num_ppo_epochs=3,
            local_rollout_forward_batch_size=rows,
            whiten_rewards=True,
            kl_coef=given["kl"],
            cliprange=given["clip_low"],
            cliprange_value=given["value_clip"],
            gamma=given["gamma"],
            lam=given["lam"],
            seed=0,
        ),
        processing_class=tokenizer,
        model=causal[0],
        ref_model=causal[1],
        reward_model=scalar[0],
        value_model=scalar[1],
        train_dataset=Dataset.from_dict({"input_ids": given["ppo_prompts"]}),
        eval_dataset=Dataset.from_dict({"input_ids": given["ppo_prompts"]}),
    )
    trainer.train()
    start = len(given["ppo_prompts"][0]) - 1
    logprobs = [each[0] for each in caught["selective_log_softmax"]]
    values = [each[0][:, start:-1, 0] for each in caught["forward"] if each]
    means = caught["masked_mean"]  # four in each epoch: value loss, its clipped share, policy loss, its clipped share
    (raw_rewards, reward_mask, rewards), (raw_advantages, mask, advantages) = caught["masked_whiten"]
    return {
        "logprobs": logprobs[0],
        "reference_logprobs": logprobs[1],
        "old_values": caught["get_reward"][0][0][:, start:-1, 0],
        "scores": caught["get_reward"][1][1],
        "mask": mask,
        "mask with end": reward_mask,
        "raw rewards": raw_rewards,
        # As its loop goes on to do: what the masks hide becomes 0.
        "rewards": torch.where(reward_mask, rewards, 0.0),
        "gae": raw_advantages,
        "advantages": torch.where(mask, advantages, 0.0),
        "new logprobs": torch.stack(logprobs[2:]),
        "new values": torch.stack(values),
        "value clip": torch.stack([torch.where(reward_mask, each[0], 0.0) for each in means[0::4]]),
        "policy clip": torch.stack([torch.where(mask, each[0], 0.0) for each in means[2::4]]),
    }


if __name__ == "__main__":
    where, kind = Path(sys.argv[1]), sys.argv[2]
    makers = {"grpo": grpo, "dpo": dpo, "reward": reward, "sft": sft, "ppo": ppo}
    torch.save(makers[kind](where, torch.load(where / "inputs.pt")), where / f"{kind}.pt")
