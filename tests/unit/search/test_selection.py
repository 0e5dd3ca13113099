"""The best continuations in two stages are those of one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.search import selection

# Up to 24 candidates of up to 4,800 entries: both stages, and the way without them.
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 600))


def _check(scores: torch.Tensor, count: int) -> None:
    """Compares with a plain top-k, whatever ties there are."""
    before = scores.clone()
    best, hypotheses, tokens = selection.best(scores, count)
    num_sentences, beam, num_tokens = scores.shape
    expected = scores.flatten(1).topk(min(count, beam * num_tokens), dim=1).values
    assert torch.equal(best, expected)
    assert hypotheses.min() >= 0 and hypotheses.max() < beam
    assert tokens.min() >= 0 and tokens.max() < num_tokens
    rows = torch.arange(num_sentences).unsqueeze(1)
    assert torch.equal(scores[rows, hypotheses, tokens], best)
    places = hypotheses * num_tokens + tokens
    assert all(len(set(row)) == len(row) for row in places.tolist())
    assert torch.equal(scores, before)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, count=st.integers(1, 24), seed=st.integers(0, 2**30))
def test_the_best_are_those_of_a_plain_topk(shape, count, seed):
    generator = torch.Generator().manual_seed(seed)
    _check(torch.randn(shape, generator=generator), count)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, count=st.integers(1, 24), levels=st.integers(1, 5), seed=st.integers(0, 2**30))
def test_ties_are_taken_once_each(shape, count, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    _check(torch.randint(levels, shape, generator=generator).double(), count)


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    count=st.integers(1, 24),
    share=st.floats(0.5, 1.0),
    seed=st.integers(0, 2**30),
)
def test_forbidden_entries_come_last(shape, count, share, seed):
    """As many entries as are asked for are possible, the others -inf."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator).flatten(1)
    places = torch.rand(scores.shape, generator=generator)
    allowed = places <= places.sort(dim=1).values[:, min(count, scores.shape[1]) - 1 :][:, :1]
    possible = allowed | (torch.rand(scores.shape, generator=generator) > share)
    _check(scores.masked_fill(~possible, -torch.inf).view(shape), count)


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    count=st.integers(1, 24),
    closed=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**30),
)
def test_what_stands_before_is_added_to_the_last_bit(shape, count, closed, seed):
    """Sums as large as those of long hypotheses, so that they round; some hypotheses are closed."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    before = 1000 * torch.randn(shape[:2], generator=generator)
    is_closed = torch.rand(shape[:2], generator=generator) < closed
    is_closed[:, 0] = False
    before = before.masked_fill(is_closed, -torch.inf)
    found = selection.best(scores, count, before)
    sums = scores + before.unsqueeze(2)
    plain = selection.best(sums, count)
    assert torch.equal(found[0], plain[0])
    rows = torch.arange(shape[0]).unsqueeze(1)
    assert torch.equal(sums[rows, found[1], found[2]], found[0])


@pytest.mark.parametrize("num_tokens", [127, 128, 129, 191, 192, 193])
@pytest.mark.parametrize("beam", [1, 2])
def test_the_borders_of_chunks_are_no_borders(beam, num_tokens):
    """One candidate, at every place in turn."""
    total = beam * num_tokens
    scores = torch.zeros(total, total).fill_diagonal_(1.0).view(total, beam, num_tokens)
    best, hypotheses, tokens = selection.best(scores, 1)
    assert (best == 1).all()
    assert (hypotheses * num_tokens + tokens).flatten().tolist() == list(range(total))


def test_many_of_the_best_may_stand_in_one_chunk():
    scores = torch.zeros(1, 2, 1000)
    scores[0, 1, 64:70] = torch.tensor([1.0, 6.0, 3.0, 4.0, 5.0, 2.0])
    best, hypotheses, tokens = selection.best(scores, 6)
    assert best[0].tolist() == [6, 5, 4, 3, 2, 1]
    assert hypotheses[0].tolist() == [1] * 6
    assert tokens[0].tolist() == [65, 68, 67, 66, 69, 64]


def test_no_more_than_there_are_come_back():
    best, hypotheses, tokens = selection.best(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]]), 9)
    assert best.tolist() == [[3, 2, 1, 0]]
    assert hypotheses.tolist() == [[0, 1, 0, 1]]
    assert tokens.tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_log_probabilities_are_summed_in_float32_at_least(given_dtype, dtype):
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)).to(given_dtype)
    found = selection.log_probabilities(logits)
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.log_softmax(logits.to(dtype), dim=-1))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(4, dtype=dtype))
