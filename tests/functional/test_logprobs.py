"""Token log-probabilities and entropies."""

import math

import pytest
import torch

from fairlead import functional
from fairlead.functional import logprobs as module

LOGITS = torch.log(torch.tensor([[[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]]]))
TOKENS = torch.tensor([[0, 2]])


@pytest.fixture(params=[1 << 24, 7], ids=["one piece", "many pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PIECE_ELEMENTS, "cpu", request.param)


@pytest.mark.usefixtures("pieces")
def test_by_hand() -> None:
    expected = torch.tensor([[math.log(0.5), math.log(0.3)]])
    torch.testing.assert_close(functional.token_logprobs(LOGITS, TOKENS), expected)
    # -(.5 ln .5 + .3 ln .3 + .2 ln .2) = .346574 + .361192 + .321888
    torch.testing.assert_close(functional.entropy(LOGITS), torch.full((1, 2), 1.029653), atol=1e-6, rtol=0)


def test_temperature_divides_the_logits() -> None:
    # temperature .5 squares probabilities: .25, .09, .04 over .38
    expected = torch.tensor([[math.log(0.25 / 0.38), math.log(0.09 / 0.38)]])
    torch.testing.assert_close(functional.token_logprobs(LOGITS, TOKENS, temperature=0.5), expected)
    probability = torch.tensor([0.25, 0.09, 0.04]) / 0.38
    torch.testing.assert_close(
        functional.entropy(LOGITS, temperature=0.5)[0, 0], -(probability * probability.log()).sum()
    )


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5), (3, 2, 4, 5)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_plain_torch(shape: tuple[int, ...], temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, shape[:-1], generator=generator)
    left, right = (torch.randn(shape[:-1], generator=generator, dtype=torch.float64) for _ in range(2))

    logp = torch.log_softmax(logits / temperature, dim=-1)
    plain_logprobs = logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    plain_entropy = -(logp.exp() * logp).sum(-1)
    (plain,) = torch.autograd.grad((left * plain_logprobs + right * plain_entropy).sum(), logits)

    logprobs, entropies = functional.token_logprobs_and_entropy(logits, tokens, temperature)
    torch.testing.assert_close(logprobs, plain_logprobs)
    torch.testing.assert_close(entropies, plain_entropy)
    (both,) = torch.autograd.grad((left * logprobs + right * entropies).sum(), logits)
    torch.testing.assert_close(both, plain)

    separate = (left * functional.token_logprobs(logits, tokens, temperature)).sum()
    separate = separate + (right * functional.entropy(logits, temperature)).sum()
    torch.testing.assert_close(torch.autograd.grad(separate, logits)[0], plain)


@pytest.mark.usefixtures("pieces")
def test_numerical_first_and_second_derivatives() -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[0, 1, 2], [3, 3, 0]])

    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return functional.token_logprobs_and_entropy(x, tokens, 0.8)

    assert torch.autograd.gradcheck(both, (logits,))
    assert torch.autograd.gradgradcheck(both, (logits,))


def test_pieces_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 11, 32)
    tokens = torch.randint(32, (3, 11))
    whole = functional.token_logprobs_and_entropy(logits, tokens)
    monkeypatch.setitem(module.PIECE_ELEMENTS, "cpu", 100)
    cut = functional.token_logprobs_and_entropy(logits, tokens)
    assert torch.equal(whole[0], cut[0])
    assert torch.equal(whole[1], cut[1])


def test_pieces_cover_every_position_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for elements in (1, 10, 64, 100, 1000):
        monkeypatch.setitem(module.PIECE_ELEMENTS, "cpu", elements)
        seen = torch.zeros(5, 7)
        for piece in module.pieces(torch.empty(5, 7, 3)):
            seen[piece] += 1
            assert seen[piece].numel() * 3 <= max(elements, 3)
        assert (seen == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = (torch.randn(2, 3, 50) * 4).to(dtype).requires_grad_()
    tokens = torch.randint(50, (2, 3))
    logprobs, entropies = functional.token_logprobs_and_entropy(logits, tokens)
    exact_logprobs, exact_entropies = functional.token_logprobs_and_entropy(logits.double(), tokens)
    assert logprobs.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), exact_logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies.double(), exact_entropies, atol=1e-5, rtol=0)
    logprobs.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype


def test_only_the_logits_are_kept_for_the_backward_pass() -> None:
    kept: list[torch.Tensor] = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    logits = torch.randn(2, 6, 16, dtype=torch.bfloat16, requires_grad=True)
    sliced = logits[:, 2:-1]
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        functional.token_logprobs_and_entropy(sliced, torch.zeros(2, 3, dtype=torch.int64))
    large = [tensor for tensor in kept if tensor.numel() >= sliced.numel()]
    assert [tensor.data_ptr() for tensor in large] == [sliced.data_ptr()], "no copy, not even of a slice"


@pytest.mark.usefixtures("pieces")
def test_forbidden_tokens_count_as_probability_zero() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [1.0, -torch.inf, -torch.inf]], requires_grad=True)
    logprobs, entropies = functional.token_logprobs_and_entropy(logits, torch.tensor([2, 0]))
    torch.testing.assert_close(entropies, torch.tensor([math.log(2), 0.0]))
    (logprobs.sum() + entropies.sum()).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0, 0.5], [0, 0, 0]]))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_masked_position_sends_no_gradient(poison: float) -> None:
    logits = torch.randn(2, 3, 5)
    logits[0, 2] = poison
    logits.requires_grad_()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    logprobs, entropies = functional.token_logprobs_and_entropy(logits, torch.ones(2, 3, dtype=torch.int64))
    (functional.masked_sum(logprobs, mask) + functional.masked_sum(entropies, mask)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[0, 2] == 0).all()


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e30, 0.0], [-1e4, -1e4]])
    logprobs, entropies = functional.token_logprobs_and_entropy(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(logprobs, torch.tensor([0.0, -math.log(2)]))
    torch.testing.assert_close(entropies, torch.tensor([0.0, math.log(2)]))


def test_empty_shapes() -> None:
    assert functional.token_logprobs(torch.zeros(2, 0, 5), torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0)
    assert functional.entropy(torch.zeros(0, 3, 5)).shape == (0, 3)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"logits \[1, 2, 3\], tokens \[1, 3\]"):
        functional.token_logprobs(LOGITS, torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="integers"):
        functional.token_logprobs(LOGITS, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="temperature must be positive"):
        functional.entropy(LOGITS, temperature=0.0)
    with pytest.raises(ValueError, match="scalar"):
        functional.entropy(torch.tensor(0.0))
