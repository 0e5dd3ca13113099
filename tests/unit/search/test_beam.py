"""The beam's rules by small worked examples; its exactness is looked at in tests/exactness."""

import dataclasses
import math

import pytest
import torch

from nmt.models import state as decoder_state
from nmt.search import beam, selection
from nmt.search import settings as search_settings

UNK, BOS, EOS, PAD, A, B = range(6)
IDS = beam.SpecialIds(bos=BOS, eos=EOS, pad=PAD)
SETTINGS = search_settings.SearchSettings


class Chain:
    """A model whose next token depends on the last one alone, by a table of probabilities.

    A token without an entry is followed by EOS for sure.

    Attributes:
        num_steps: steps taken so far.
    """

    attends = False
    max_src_positions = None

    def __init__(
        self, table: dict[int, dict[int, float]], max_tgt_positions: int | None = None
    ) -> None:
        self.max_tgt_positions = max_tgt_positions
        self._logits = torch.full((6, 6), -math.inf, dtype=torch.float64)
        for last in range(6):
            for token, probability in table.get(last, {EOS: 1.0}).items():
                self._logits[last, token] = math.log(probability)
        self.num_steps = 0

    def encode(self, src_BS: torch.Tensor, src_mask_BS: torch.Tensor) -> torch.Tensor:
        return src_BS

    def start(self, memory: torch.Tensor) -> decoder_state.DecoderState:
        return decoder_state.DecoderState(sentence={"src": memory})

    def step(self, tokens_N, state, *, with_attention=False):
        self.num_steps += 1
        return self._logits[tokens_N], None, dataclasses.replace(state, position=state.position + 1)

    def logits(self, states, shortlist=None):
        return states


def _search(model: Chain, src_length: int = 3, **options) -> list[beam.Hypothesis]:
    ids = torch.full((1, src_length), A)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return beam.search(model, ids, mask, SETTINGS(**options), IDS)[0]


# "a" (0.6) is the likelier first token, "b b" (0.36) the likelier sentence of two.
DETOUR = {
    BOS: {A: 0.6, B: 0.4},
    A: {A: 0.35, B: 0.35, EOS: 0.3},
    B: {B: 0.05, A: 0.05, EOS: 0.9},
}


def test_a_beam_finds_what_greedy_search_misses():
    greedy = _search(Chain(DETOUR), beam_size=1, max_length=3, length_penalty=0.0)
    wide = _search(Chain(DETOUR), beam_size=2, max_length=3, length_penalty=0.0)
    assert greedy[0].tokens[0] == A
    assert wide[0].tokens == (B,)
    assert wide[0].log_probability == pytest.approx(math.log(0.4 * 0.9))


def test_the_score_is_the_sum_over_the_penalty_of_the_length_with_eos():
    found = _search(Chain(DETOUR), beam_size=2, length_penalty=1.0)[0]
    assert found.tokens == (B,)
    assert found.score == pytest.approx(math.log(0.4 * 0.9) / ((5 + 2) / 6))


def test_the_penalty_can_make_the_longer_one_win():
    # "a" ends at once with 0.5; "b" goes on surely and ends with 0.45.
    table = {BOS: {EOS: 0.5, B: 0.45, A: 0.05}, A: {EOS: 1.0}, B: {A: 1.0}}
    short = _search(Chain(table), beam_size=3, num_best=2, length_penalty=0.0)
    long = _search(Chain(table), beam_size=3, num_best=2, length_penalty=1.0)
    assert [one.tokens for one in short] == [(), (B, A)]
    assert [one.tokens for one in long] == [(B, A), ()]
    assert long[0].log_probability == pytest.approx(math.log(0.45))


def test_padding_and_bos_are_never_produced():
    table = {BOS: {PAD: 0.5, BOS: 0.4, A: 0.1}, A: {PAD: 0.9, EOS: 0.1}, PAD: {EOS: 1.0}}
    for beam_size in (1, 2):
        found = _search(Chain(table), beam_size=beam_size, max_length=5)
        assert found[0].tokens == (A,)


def test_unknown_words_may_be_produced():
    assert _search(Chain({BOS: {UNK: 1.0}, UNK: {EOS: 1.0}}), beam_size=2)[0].tokens == (UNK,)


ENDLESS = {BOS: {A: 1.0}, A: {A: 0.99, EOS: 0.01}}


@pytest.mark.parametrize("max_length", [1, 2, 7])
def test_a_sentence_that_never_ends_is_ended_at_the_longest_length(max_length):
    table = ENDLESS | {BOS: {A: 0.99, EOS: 0.01}}
    model = Chain(table)
    found = _search(model, beam_size=1, max_length=max_length)
    assert found[0].tokens == (A,) * (max_length - 1)  # EOS counts
    assert model.num_steps == max_length
    expected = (max_length - 1) * math.log(0.99) + math.log(0.01)
    assert found[0].log_probability == pytest.approx(expected)


def test_the_longest_length_follows_from_the_source_and_the_model():
    lengths = [
        len(_search(Chain(ENDLESS), src_length=length, beam_size=1)[0].tokens) + 1
        for length in (1, 4)
    ]
    assert lengths == [23, 32]
    short = Chain(ENDLESS, max_tgt_positions=9)
    assert len(_search(short, beam_size=1)[0].tokens) + 1 == 9
    assert short.num_steps == 9


@pytest.mark.parametrize("min_length", [0, 1, 4])
def test_no_sentence_ends_before_the_shortest_length(min_length):
    table = {BOS: {EOS: 0.9, A: 0.1}, A: {EOS: 0.9, A: 0.1}}
    found = _search(Chain(table), beam_size=1, min_length=min_length)
    assert found[0].tokens == (A,) * min_length


def test_an_end_outside_the_best_k_is_no_end():
    """Of 2K candidates the second half may take the places of those that end, but not end."""
    table = {
        BOS: {A: 0.5, B: 0.4, EOS: 0.1},
        A: {EOS: 1.0},
        B: {EOS: 1.0},
    }
    found = _search(Chain(table), beam_size=2, num_best=2, length_penalty=0.0, patience=5.0)
    assert [one.tokens for one in found] == [(A,), (B,)]
    narrow = _search(Chain(table), beam_size=3, num_best=3, length_penalty=0.0, patience=5.0)
    assert [one.tokens for one in narrow] == [(A,), (B,), ()]


def test_a_finished_hypothesis_leaves_its_place_to_the_next_best():
    """When "" ends among the best two, "a" and "b" both go on."""
    table = {BOS: {EOS: 0.4, A: 0.35, B: 0.25}, A: {EOS: 1.0}, B: {EOS: 1.0}}
    found = _search(Chain(table), beam_size=2, num_best=2, length_penalty=0.0, patience=1.5)
    assert [one.tokens for one in found] == [(), (A,)]
    wider = _search(Chain(table), beam_size=2, num_best=2, length_penalty=9.0, patience=1.5)
    assert [one.tokens for one in wider] == [(A,), (B,)]


def test_k_go_on_even_if_all_of_the_best_k_end():
    """Of the best four, "a </s>" and "b </s>" end, and both "b <unk>" and "a a" go on."""
    table = {
        BOS: {A: 0.5, B: 0.5},
        A: {EOS: 0.9, A: 0.1},
        B: {EOS: 0.89, UNK: 0.11},
        UNK: {EOS: 0.5, B: 0.5},
    }
    options = {"beam_size": 2, "num_best": 2, "max_length": 3, "patience": 9.0}
    found = _search(Chain(table), length_penalty=20.0, **options)
    # Log-probabilities of ln 0.045 and ln 0.0275: the penalty makes the longest ones win.
    assert [one.tokens for one in found] == [(A, A), (B, UNK)]


@pytest.mark.parametrize("eos_first", [True, False])
def test_what_is_forbidden_does_not_count_as_finished(monkeypatch, eos_first):
    """Of several continuations with a probability of zero, any may be among the best."""
    best = selection.best

    def turned(scores_BKV, count, before_BK):
        scores_BKV = scores_BKV + before_BK.unsqueeze(2)
        order = torch.arange(6).roll(-EOS) if eos_first else torch.arange(6).roll(-EOS - 1)
        flat, places = scores_BKV[:, :, order].flatten(1).sort(dim=1, descending=True, stable=True)
        assert torch.equal(flat[:, :count], best(scores_BKV, count)[0])
        places = places[:, :count]
        return flat[:, :count], places // 6, order[places % 6]

    monkeypatch.setattr(selection, "best", turned)
    table = {BOS: {A: 1.0}, A: {B: 0.6, EOS: 0.4}, B: {EOS: 1.0}}
    # Done once two are finished: "a" (0.4) at the second step, "a b" (0.6) at the third.
    found = _search(Chain(table), beam_size=3, length_penalty=0.0, patience=0.6)
    assert [one.tokens for one in found] == [(A, B)]


def test_search_stops_once_enough_are_finished_and_patience_goes_on():
    # Every step ends one hypothesis; what comes later is the better by its length penalty.
    table = {BOS: {EOS: 0.5, A: 0.5}, A: {EOS: 0.5, A: 0.5}}
    steps = []
    for patience in (0.5, 1.0, 2.0):
        model = Chain(table)
        _search(model, beam_size=2, patience=patience)
        steps.append(model.num_steps)
    assert steps == [1, 2, 4]


def test_exact_stop_ends_when_no_open_hypothesis_can_win():
    table = {BOS: {EOS: 0.9, A: 0.1}, A: {EOS: 0.5, A: 0.5}}
    model = Chain(table)
    found = _search(model, beam_size=2, length_penalty=0.0, exact_stop=True)
    assert found[0].tokens == () and model.num_steps == 1
    # With a penalty of 2 the longest might still win, though the next longer one could not.
    table = {BOS: {EOS: 0.6, A: 0.4}, A: {EOS: 0.1, A: 0.9}}
    found = _search(Chain(table), beam_size=2, length_penalty=2.0, exact_stop=True, max_length=20)
    scores = {
        length: (math.log(0.6) if length == 1 else math.log(0.4 * 0.9 ** (length - 2) * 0.1))
        / ((5 + length) / 6) ** 2
        for length in range(1, 21)
    }
    best = max(scores, key=lambda length: scores[length])
    assert best == 20
    assert found[0].tokens == (A,) * (best - 1)
    assert found[0].score == pytest.approx(scores[best])


def test_exact_stop_looks_at_as_many_as_are_asked_for():
    table = {BOS: {EOS: 0.9, A: 0.1}, A: {EOS: 0.5, A: 0.5}}
    found = _search(Chain(table), beam_size=2, num_best=2, length_penalty=0.0, exact_stop=True)
    assert [one.tokens for one in found] == [(), (A,)]


def test_fewer_come_back_where_there_are_no_more():
    table = {BOS: {EOS: 0.5, A: 0.5}, A: {EOS: 1.0}}
    found = _search(Chain(table), beam_size=5, num_best=5)
    assert sorted(one.tokens for one in found) == [(), (A,)]
    assert all(math.isfinite(one.score) for one in found)
    assert [one.tokens for one in _search(Chain(table), beam_size=3, num_best=3, max_length=1)] == [
        ()
    ]


def test_hypotheses_come_best_first_and_are_different():
    table = {
        BOS: {A: 0.5, B: 0.4, EOS: 0.1},
        A: {A: 0.2, B: 0.5, EOS: 0.3},
        B: {A: 0.6, B: 0.1, EOS: 0.3},
    }
    for exact_stop in (False, True):
        found = _search(Chain(table), beam_size=4, num_best=4, exact_stop=exact_stop, max_length=9)
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
        assert len({one.tokens for one in found}) == 4


@pytest.mark.parametrize("num_best", [1, 2])
def test_search_stops_at_once_where_nothing_open_can_end_among_the_best(num_best):
    """Without a length penalty sums only fall: what comes later cannot be better."""
    table = {BOS: {EOS: 0.5, A: 0.3, B: 0.2}, A: {EOS: 0.9, A: 0.1}, B: {B: 0.9, EOS: 0.1}}
    settings = {"beam_size": 4, "num_best": num_best, "max_length": 30, "length_penalty": 0.0}
    model = Chain(table)
    found = _search(model, patience=5.0, **settings)
    assert [one.tokens for one in found] == [(), (A,)][:num_best]
    assert model.num_steps == num_best
    rewarded = Chain(table)
    _search(rewarded, patience=5.0, **settings | {"length_penalty": 1.0})
    assert rewarded.num_steps > 2, "with a penalty for length the longer ones may still win"


def test_samples_are_drawn_to_their_end():
    found = _search(
        Chain({BOS: {EOS: 0.5, A: 0.5}, A: {A: 0.9, EOS: 0.1}}),
        sample=True, seed=1, num_best=8, max_length=20, length_penalty=0.0,
    )  # fmt: skip
    assert len({len(one.tokens) for one in found}) > 2
