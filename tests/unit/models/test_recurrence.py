"""The attentional LSTM with gradients made by hand against the one that autograd sees through."""

from collections.abc import Callable

import pytest
import torch

from nmt.config import families
from nmt.models import base, dropout, recurrence, rnn

LENGTHS = torch.tensor([5, 3, 4])

Decode = Callable[[], tuple[torch.Tensor, torch.Tensor | None]]


def draw(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).requires_grad_()


@pytest.fixture(params=["dot", "general"])
def decoder(request: pytest.FixtureRequest) -> rnn.RnnDecoder:
    options = families.RnnDecoderOptions(
        type="rnn", embedding_size=6, hidden_size=8, attention=request.param, dropout=0.0
    )
    torch.manual_seed(1)
    made = rnn.RnnDecoder(options, 8).train()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def leaves_and_memory() -> tuple[list[torch.Tensor], base.Memory]:
    leaves = [draw(3, 7, 6, seed=1), draw(3, 5, 8, seed=2), draw(3, 5, 8, seed=3)]
    leaves.append(draw(3, 8, seed=4))
    mask = torch.arange(5) < LENGTHS.unsqueeze(1)
    return leaves, base.Memory(leaves[1], mask, leaves[3], leaves[2])


def slow(monkeypatch: pytest.MonkeyPatch, decode: Decode) -> tuple[torch.Tensor, torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(rnn.RnnDecoder, "_has_own_gradients", lambda *_: False)
        states, attention = decode()
    assert attention is not None
    return states, attention


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_values_and_gradients_are_those_of_autograd(decoder, monkeypatch, autocast):
    leaves, memory = leaves_and_memory()
    taken = []
    own = recurrence.run
    monkeypatch.setattr(recurrence, "run", lambda *args: taken.append(1) or own(*args))

    def decode() -> tuple[torch.Tensor, torch.Tensor | None]:
        return decoder.decode(leaves[0], memory, with_attention=True)

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states, attention = decode()
    assert taken == [1]
    # In float32 in any case: in bf16 seven positions add up to 8 % of the largest element.
    expected, expected_attention = slow(monkeypatch, decode)
    wanted = [*leaves, *decoder.parameters()]
    upstream = draw(3, 7, 6, seed=9).detach()
    guide = draw(3, 7, 5, seed=10).detach()
    found_gradients = torch.autograd.grad(
        [states, attention], wanted, [upstream.to(states.dtype), guide]
    )
    gradients = torch.autograd.grad([expected, expected_attention], wanted, [upstream, guide])
    pairs = [(states, expected), (attention, expected_attention)]
    pairs += list(zip(found_gradients, gradients, strict=True))
    for found, other in pairs:
        assert found.shape == other.shape
        largest = float(other.detach().abs().max())
        torch.testing.assert_close(
            found.float(), other, rtol=0.0, atol=(0.08 if autocast else 1e-5) * largest
        )
    assert all(g.dtype == torch.float32 for g in found_gradients[4:])


def test_attention_alone_has_a_gradient(decoder, monkeypatch):
    leaves, memory = leaves_and_memory()

    def decode() -> tuple[torch.Tensor, torch.Tensor | None]:
        return decoder.decode(leaves[0], memory, with_attention=True)

    guide = draw(3, 7, 5, seed=10).detach()
    found = torch.autograd.grad(decode()[1], leaves[:2], guide)
    wanted = torch.autograd.grad(slow(monkeypatch, decode)[1], leaves[:2], guide)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_attention_sees_no_padding(decoder):
    leaves, memory = leaves_and_memory()
    _, attention = decoder.decode(leaves[0], memory, with_attention=True)
    assert attention is not None
    assert attention[1, :, 3:].abs().max() == 0
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 7))
    assert decoder.decode(leaves[0], memory)[1] is None


def test_dropout_falls_on_what_is_fed_back_and_handed_out(decoder, monkeypatch):
    """With the same decisions, autograd through the slow way has the same values and gradients."""
    leaves, memory = leaves_and_memory()
    decoder._dropout_rate = 0.4

    def factors(states: torch.Tensor, rate: float) -> torch.Tensor:
        seeds.append(len(seeds))
        generator = torch.Generator().manual_seed(seeds[-1])
        kept = torch.rand(3, 6, generator=generator) >= rate
        return kept.reshape(states.shape).to(states.dtype) / (1 - rate)

    def spied_dropout(states: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
        # Embeddings are dropped once for all positions; here they are left whole on both ways.
        return states * factors(states, rate) if states.shape[1] == 1 else states

    monkeypatch.setattr(dropout, "random_factors", factors)
    monkeypatch.setattr(dropout, "dropout", spied_dropout)
    results = []
    upstream = draw(3, 7, 6, seed=9).detach()
    for way in (lambda decode: decode(), lambda decode: slow(monkeypatch, decode)):
        seeds: list[int] = []
        states, _ = way(lambda: decoder.decode(leaves[0], memory, with_attention=True))
        assert len(seeds) == 7
        wanted = [*leaves, *decoder.parameters()]
        results.append([states, *torch.autograd.grad(states, wanted, upstream)])
    assert (results[0][0] == 0).any()
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"cell": "gru"}, {"num_layers": 2}, {"attention": "additive"}],
    ids=["gru", "two layers", "additive"],
)
def test_other_decoders_go_the_other_way(options, monkeypatch):
    monkeypatch.setattr(recurrence, "run", lambda *_: pytest.fail("this is for one LSTM layer"))
    leaves, memory = leaves_and_memory()
    settings = {"embedding_size": 6, "hidden_size": 8, **options}
    made = rnn.RnnDecoder(families.RnnDecoderOptions(type="rnn", **settings), 8).train()
    states, _ = made.decode(leaves[0], memory)
    assert states.shape == (3, 7, 6)
