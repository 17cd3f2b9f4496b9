"""The turn game: exact rounds, sampled pairs, and the same game played by a model."""

from __future__ import annotations

import pytest
import torch

from fairlead import functional
from fairlead.data import PromptRecord, prompts_batch
from fairlead.models import ModelSpec
from fairlead.rollouts import Dialogue
from fairlead.runtime import GroupSpec, LocalGroup
from fairlead.worlds import Echo, TurnGame, TurnGameReward
from fairlead.worlds.turn_game import MALFORMED
from tiny_runs import run_stages


def test_exact_rounds() -> None:
    game = TurnGame()
    assert game.value(game.reference) == pytest.approx(0.98, abs=0.005)
    assert game.rounds(1.0, 6) == pytest.approx([1.18, 1.80, 2.66, 2.95, 2.99, 3.00], abs=0.006)
    last = game.rounds(1.0, 6, "last")
    assert last[0] == pytest.approx(1.16, abs=0.006) and last[-1] == pytest.approx(1.22, abs=0.006)


def test_a_first_turn_judged_once_goes_wrong() -> None:
    """All six steps of the first turn with the values of the reference's second turn."""
    game = TurnGame()
    stale = torch.log_softmax(game.reference[0] + 6 * game.action_values(game.reference)[0], 0)
    second = torch.log_softmax(game.reference[1] + 6 * game.rewards, -1)
    assert game.value([stale, second]) == pytest.approx(1.35, abs=0.006)


def test_least_squares_over_branched_pairs_finds_the_step() -> None:
    """20,000 pairs of first turns, each with one sampled second turn: the fit is the step, and the loss is the noise of the futures."""
    game = TurnGame()
    first = game.reference[0].exp()
    generator = torch.Generator().manual_seed(0)
    pair = torch.multinomial(first, 40_000, replacement=True, generator=generator).view(-1, 2)
    later = torch.randint(3, pair.shape, generator=generator)
    difference = game.rewards[pair, later].diff(dim=1).neg().squeeze(1)
    signs = torch.nn.functional.one_hot(pair, 3).double()
    fitted = torch.linalg.lstsq(signs[:, 0] - signs[:, 1], difference[:, None], driver="gelsd").solution.squeeze(1)
    policy = torch.log_softmax(game.reference[0] + fitted, 0)
    exact = torch.softmax(game.reference[0] + game.action_values(game.reference)[0], 0)
    assert exact.tolist() == pytest.approx([0.4584, 0.4333, 0.1083], abs=1e-4)
    assert policy.exp().tolist() == pytest.approx(exact.tolist(), abs=0.01)
    previous = game.reference[0][pair]
    loss = functional.rebel(policy[pair], previous, difference, 1.0)[0].mean()
    noise = 2 * (first * game.rewards.var(1, unbiased=False)).sum()
    assert float(loss) == pytest.approx(float(noise), rel=0.1)


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> LocalGroup:
    """A model that has seen dialogues of the reference."""
    game, folder = TurnGame(3), tmp_path_factory.mktemp("game")
    data = game.save_demonstrations(folder / "dialogues.jsonl", 1000, 0)
    stage = {
        "model": str(game.save_model(folder / "new")),
        "data": str(data),
        "packed": False,
        "batch_size": 50,
        "epochs": 5,
    }
    run = run_stages(folder / "run", {"sft": stage | {"optimiser": {"learning_rate": 2e-2, "schedule": "linear"}}})
    model = ModelSpec(path=str(run.directory / "stages" / "sft" / "model"))
    return LocalGroup(GroupSpec(role="policy", model=model))


def test_a_model_that_has_seen_the_reference_plays_it(player: LocalGroup) -> None:
    game = TurnGame(3)
    probabilities = game.probabilities(player)
    assert float(probabilities.sum()) > 0.95
    assert probabilities.sum((1, 2)).tolist() == pytest.approx([0.5, 0.4, 0.1], abs=0.06)
    assert game.value_of(player) == pytest.approx(game.value(game.reference), abs=0.15)


def test_the_value_of_a_model_is_the_mean_reward_of_its_dialogues(player: LocalGroup) -> None:
    game = TurnGame(3)
    prompts = prompts_batch([PromptRecord("?")] * 4000, player.codec, 1)
    samples = Dialogue(environment=Echo(), turns=3, sampling={"maximum_tokens": 2})(player, prompts)
    rewards = TurnGameReward(turns=3)(samples)
    assert float(rewards.mean()) == pytest.approx(game.value_of(player), abs=0.06)
    better = rewards.gt(MALFORMED).double().mean()  # some well-formed dialogues are worth no more than malformed ones
    assert float(better) == pytest.approx(float(game.probabilities(player)[game.rewards > MALFORMED].sum()), abs=0.02)
