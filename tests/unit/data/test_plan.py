"""Plans of epochs: every pair once, within the budget, at random, and the same again each time."""

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data import corpus, plan

MakeCorpus = Callable[..., corpus.Corpus]

LENGTHS = st.lists(st.tuples(st.integers(2, 12), st.integers(2, 12)), min_size=1, max_size=40)
START = plan.Position()


def varied(make_corpus: MakeCorpus, num_pairs: int) -> corpus.Corpus:
    return make_corpus([(2 + index * 5 % 11, 2 + index * 7 % 11) for index in range(num_pairs)])


def as_lists(batches: list[torch.Tensor]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@settings(deadline=None, max_examples=80)
@given(
    lengths=LENGTHS,
    batch_tokens=st.integers(12, 60),
    seed=st.integers(0, 2**63 - 1),
    number=st.integers(0, 1000),
)
def test_every_pair_comes_once_an_epoch_within_the_token_budget(
    make_corpus: MakeCorpus,
    lengths: list[tuple[int, int]],
    batch_tokens: int,
    seed: int,
    number: int,
) -> None:
    planner = plan.Planner(make_corpus(lengths), batch_tokens=batch_tokens, seed=seed)
    batches = as_lists(planner.epoch(number))
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        assert 0 < sum(lengths[index][1] for index in batch) <= batch_tokens


def test_the_budget_is_used_to_its_last_token(make_corpus: MakeCorpus) -> None:
    planner = plan.Planner(make_corpus([(9, 5)] * 12), batch_tokens=20, seed=1)
    assert [len(batch) for batch in planner.epoch(0)] == [4, 4, 4]


@settings(deadline=None, max_examples=30)
@given(lengths=LENGTHS, pool_batches=st.integers(1, 4))
def test_no_pair_is_lost_between_pools(
    make_corpus: MakeCorpus, lengths: list[tuple[int, int]], pool_batches: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "POOL_BATCHES", pool_batches)
        batches = as_lists(plan.Planner(make_corpus(lengths), batch_tokens=15, seed=1).epoch(0))
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert all(sum(lengths[index][1] for index in batch) <= 15 for batch in batches)


def test_the_same_seed_gives_the_same_order_whatever_was_drawn_before(
    make_corpus: MakeCorpus,
) -> None:
    data = varied(make_corpus, 60)
    first = plan.Planner(data, batch_tokens=40, seed=7)
    wanted = [as_lists(first.epoch(number)) for number in range(3)]
    torch.manual_seed(123)
    torch.rand(10)
    second = plan.Planner(data, batch_tokens=40, seed=7)
    assert [as_lists(second.epoch(number)) for number in (2, 0, 1)] == [
        wanted[i] for i in (2, 0, 1)
    ]


def test_each_epoch_and_seed_has_another_order_and_other_batches(make_corpus: MakeCorpus) -> None:
    data = varied(make_corpus, 60)
    orders, batches = set(), set()
    for seed, number in itertools.product((0, 1, 2, 3), repeat=2):
        epoch = as_lists(plan.Planner(data, batch_tokens=40, seed=seed).epoch(number))
        orders.add(tuple(map(tuple, epoch)))
        batches.add(frozenset(frozenset(batch) for batch in epoch))
    assert len(orders) == len(batches) == 16


def test_planning_leaves_the_random_state_of_the_run_alone(make_corpus: MakeCorpus) -> None:
    before = torch.get_rng_state()
    plan.Planner(varied(make_corpus, 20), batch_tokens=40, seed=7, weights=[1.0]).epoch(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_come_in_no_order_of_length(make_corpus: MakeCorpus) -> None:
    planner = plan.Planner(
        make_corpus([(4, 2 + index % 30) for index in range(300)]), batch_tokens=64, seed=1
    )
    means = [float(batch.remainder(30).float().mean()) for batch in planner.epoch(0)]
    falls = sum(first > second for first, second in itertools.pairwise(means))
    assert 0.3 < falls / (len(means) - 1) < 0.7


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_a_plan_goes_on_from_every_position(
    make_corpus: MakeCorpus, weights: list[float] | None
) -> None:
    data = make_corpus([(3, 2 + index % 6) for index in range(20)], (8, 12))
    planner = plan.Planner(data, batch_tokens=20, seed=3, weights=weights)
    num_batches = sum(len(planner.epoch(number)) for number in range(3))
    whole = [
        (behind, batch.tolist())
        for behind, batch in itertools.islice(planner.batches(START), num_batches)
    ]
    assert whole[-1][0] == plan.Position(3, 0)
    for number, (behind, _) in enumerate(whole):
        fresh = plan.Planner(data, batch_tokens=20, seed=3, weights=weights)
        rest = itertools.islice(fresh.batches(behind), num_batches - number - 1)
        assert [(place, batch.tolist()) for place, batch in rest] == whole[number + 1 :]


def test_positions_count_batches_and_then_epochs(make_corpus: MakeCorpus) -> None:
    planner = plan.Planner(make_corpus([(2, 5)] * 6), batch_tokens=10, seed=1)
    found = [behind for behind, _ in itertools.islice(planner.batches(START), 7)]
    places = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert found == [plan.Position(*place) for place in places]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1.0, 1.0, 2.0], [25, 25, 50]),
        ([0.1, 0.3, 0.6], [10, 30, 60]),
        ([8.0, 1.0, 1.0], [80, 10, 10]),
        ([1.0, 1e6, 1.0], [1, 100, 1]),  # no entry vanishes
    ],
)
def test_weights_are_shares_of_an_epoch_without_favourites(
    make_corpus: MakeCorpus, weights: list[float], shares: list[int]
) -> None:
    sizes = (10, 30, 60)
    data = make_corpus([(2, 2)] * 100, sizes)
    planner = plan.Planner(data, batch_tokens=24, seed=1, weights=weights)
    for number in range(2):
        batches = as_lists(planner.epoch(number))
        assert all(2 * len(batch) <= 24 for batch in batches)
        counts = Counter(itertools.chain(*batches))
        begin = 0
        for size, share in zip(sizes, shares, strict=True):
            taken = [counts[index] for index in range(begin, begin + size)]
            assert sum(taken) == share
            assert max(taken) - min(taken) <= 1
            begin += size


def test_a_small_share_is_another_sample_each_epoch(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(2, 2)] * 100, (50, 50))
    planner = plan.Planner(data, batch_tokens=24, seed=1, weights=[1.0, 9.0])
    samples = {
        frozenset(
            index for batch in planner.epoch(number) for index in batch.tolist() if index < 50
        )
        for number in range(4)
    }
    assert len(samples) == 4
    assert all(len(sample) == 10 for sample in samples)


def _share_of_real_tokens(
    lengths: list[tuple[int, int]], batches: list[torch.Tensor], side: int
) -> float:
    widths = [[lengths[index][side] for index in batch.tolist()] for batch in batches]
    return sum(map(sum, widths)) / sum(len(batch) * max(batch) for batch in widths)


def _realistic_lengths(num_pairs: int) -> list[tuple[int, int]]:
    """Lengths like those of sentence pairs: log-normal, and about as long on both sides."""
    generator = torch.Generator().manual_seed(1)
    tgt = torch.empty(num_pairs).log_normal_(2.9, 0.6, generator=generator).clamp(1, 100)
    ratio = torch.empty(num_pairs).log_normal_(0.0, 0.2, generator=generator)
    src = (tgt * ratio).clamp(1, 120)
    return [(int(s) + 1, int(t) + 1) for s, t in zip(src.tolist(), tgt.tolist(), strict=True)]


def test_nine_tenths_of_a_realistic_batch_are_real_tokens(make_corpus: MakeCorpus) -> None:
    lengths = _realistic_lengths(8000)
    planner = plan.Planner(make_corpus(lengths), batch_tokens=1024, seed=1)
    for number in range(2):
        batches = planner.epoch(number)
        assert _share_of_real_tokens(lengths, batches, side=1) >= 0.9
        # As many tokens as fit: no more batches than needed, but for the ends of the pools.
        num_full = sum(tgt for _, tgt in lengths) / 1024
        assert len(batches) <= 1.05 * num_full + 1


def test_of_equally_long_targets_those_with_like_sources_come_together(
    make_corpus: MakeCorpus,
) -> None:
    lengths = [(2 + index % 40, 10) for index in range(2000)]
    batches = plan.Planner(make_corpus(lengths), batch_tokens=500, seed=1).epoch(0)
    assert _share_of_real_tokens(lengths, batches, side=0) >= 0.9


def test_no_batch_holds_pairs_of_two_pools(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch of a pool has its longest pairs, the first of the next its shortest ones."""
    monkeypatch.setattr(plan, "POOL_BATCHES", 2)
    # Pools of 48 tokens: about 8 short pairs and 2 long ones, which fill more than two batches.
    lengths = [(2, 2), (2, 2), (2, 2), (2, 2), (2, 16)] * 40
    for batch in plan.Planner(make_corpus(lengths), batch_tokens=24, seed=1).epoch(0):
        found = [lengths[index][1] for index in batch.tolist()]
        assert found == sorted(found)


def test_lengths_are_sorted_within_a_pool_only(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = _realistic_lengths(2000)
    shares = []
    for pool_batches in (1, 100):
        monkeypatch.setattr(plan, "POOL_BATCHES", pool_batches)
        batches = plan.Planner(make_corpus(lengths), batch_tokens=512, seed=1).epoch(0)
        shares.append(_share_of_real_tokens(lengths, batches, side=1))
    assert shares[0] < 0.6 < 0.9 <= shares[1]
