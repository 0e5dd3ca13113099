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


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 4, 8, 16, 16, ... pairs in the first epoch, and of 16 later, of blocks of 4."""
    monkeypatch.setattr(plan, "FIRST_WINDOW_PAIRS", 4)
    monkeypatch.setattr(plan, "WINDOW_PAIRS", 16)
    monkeypatch.setattr(plan, "BLOCK_PAIRS", 4)


def windows_of(planner: plan.Planner, epoch: int) -> list[list[int]]:
    """The pairs of each window of an epoch, sorted, as the positions tell them apart."""
    found: list[list[int]] = []
    position = plan.Position(epoch)
    for behind, batch in planner.batches(position):
        if len(found) == position.window:
            found.append([])
        found[-1] += batch.tolist()
        position = behind
        if behind.epoch != epoch:
            return [sorted(pairs) for pairs in found]
    raise AssertionError("a plan has no end")


@pytest.mark.parametrize("num_pairs", [1, 3, 4, 5, 12, 13, 28, 44, 61])
@pytest.mark.usefixtures("small_windows")
def test_the_first_epoch_takes_growing_windows_as_the_files_have_them(
    make_corpus: MakeCorpus, num_pairs: int
) -> None:
    planner = plan.Planner(varied(make_corpus, num_pairs), batch_tokens=30, seed=1)
    ends = [end for end in (4, 12, 28, 44, 60) if end < num_pairs] + [num_pairs]
    wanted = [list(range(*span)) for span in itertools.pairwise([0, *ends])]
    assert windows_of(planner, 0) == wanted


@pytest.mark.parametrize("num_pairs", [1, 4, 15, 16, 17, 50, 64])
@pytest.mark.usefixtures("small_windows")
def test_later_epochs_make_windows_of_shuffled_blocks(
    make_corpus: MakeCorpus, num_pairs: int
) -> None:
    planner = plan.Planner(varied(make_corpus, num_pairs), batch_tokens=30, seed=1)
    orders = set()
    for epoch in (1, 2):
        windows = windows_of(planner, epoch)
        assert sorted(itertools.chain(*windows)) == list(range(num_pairs))
        # A block belongs to the window that it begins in.
        assert max(map(len, windows)) < 16 + 4
        assert len(windows) == -(-num_pairs // 16) or num_pairs % 4
        for window in windows:
            blocks = Counter(index // 4 for index in window)
            assert all(number == min(4, num_pairs - 4 * block) for block, number in blocks.items())
        orders.add(tuple(map(tuple, windows)))
    assert len(orders) == 2 or num_pairs <= 16


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
@pytest.mark.usefixtures("small_windows")
def test_a_plan_of_many_windows_goes_on_from_every_position(
    make_corpus: MakeCorpus, weights: list[float] | None
) -> None:
    data = make_corpus([(3, 2 + index % 6) for index in range(50)], (20, 30))
    planner = plan.Planner(data, batch_tokens=20, seed=3, weights=weights)
    num_batches = sum(len(planner.epoch(number)) for number in range(2))
    whole = [
        (behind, batch.tolist())
        for behind, batch in itertools.islice(planner.batches(START), num_batches)
    ]
    assert whole[-1][0] == plan.Position(2)
    assert as_lists(planner.epoch(0)) == [batch for _, batch in whole][: len(planner.epoch(0))]
    for number, (behind, _) in enumerate(whole):
        fresh = plan.Planner(data, batch_tokens=20, seed=3, weights=weights)
        rest = itertools.islice(fresh.batches(behind), min(3, num_batches - number - 1))
        assert [(place, batch.tolist()) for place, batch in rest] == whole[number + 1 :][:3]


@pytest.mark.usefixtures("small_windows")
def test_a_resumed_run_plans_no_window_again_but_the_one_in_flight(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = varied(make_corpus, 60)
    planner = plan.Planner(data, batch_tokens=30, seed=1)
    behind = next(place for place, _ in planner.batches(START) if place.window == 2)
    planned: list[tuple[int, int]] = []
    window = plan.Planner._window

    def recording(self: plan.Planner, epoch: int, number: int) -> list[torch.Tensor]:
        planned.append((epoch, number))
        return window(self, epoch, number)

    monkeypatch.setattr(plan.Planner, "_window", recording)
    next(plan.Planner(data, batch_tokens=30, seed=1).batches(behind))
    assert planned == [(0, 2)]


class GrowingCorpus:
    """A corpus that has no pair more than was waited for."""

    def __init__(self, whole: corpus.Corpus) -> None:
        self.whole = whole
        self.num_there = 0
        self.entry_sizes = whole.entry_sizes
        self.is_complete = False
        self.share = 0.5

    def _side(self, side: corpus.Side) -> corpus.Side:
        begins = side.begins[: self.num_there + 1]
        return corpus.Side(side.ids[: begins[-1]], begins)

    @property
    def src(self) -> corpus.Side:
        return self._side(self.whole.src)

    @property
    def tgt(self) -> corpus.Side:
        return self._side(self.whole.tgt)

    def wait(self, end: int) -> int:
        self.num_there = max(self.num_there, min(end, len(self.whole)))
        return min(end, len(self.whole))


@pytest.mark.usefixtures("small_windows")
def test_batches_do_not_depend_on_how_much_of_the_corpus_is_there(make_corpus: MakeCorpus) -> None:
    whole = varied(make_corpus, 50)
    growing = GrowingCorpus(whole)
    wanted = plan.Planner(whole, batch_tokens=12, seed=1)
    found = plan.Planner(growing, batch_tokens=12, seed=1).batches(START)
    num_batches = len(wanted.epoch(0)) + 5
    there = []
    for (place, batch), (behind, other) in zip(
        itertools.islice(wanted.batches(START), num_batches), found, strict=False
    ):
        there.append(growing.num_there)
        assert (behind, other.tolist()) == (place, batch.tolist())
    assert there[0] == 4, "the first batch waits for the first window alone"
    # The last batch of a window finds out whether there is another one.
    assert sorted(set(there)) == [4, 5, 12, 13, 28, 29, 44, 45, 50]


@pytest.mark.usefixtures("small_windows")
def test_the_number_of_batches_is_an_estimate_for_large_corpora(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(5, 10)] * 60)
    assert plan.Planner(data, batch_tokens=100, seed=1).num_batches() == 7  # 600 tokens and a bit
    growing = GrowingCorpus(data)
    planner = plan.Planner(growing, batch_tokens=100, seed=1)
    growing.wait(30)
    assert planner.num_batches() == 7
    growing.wait(15)
    assert plan.Planner(make_corpus([(5, 10)] * 3), batch_tokens=10, seed=1).num_batches() == 3


@pytest.mark.usefixtures("small_windows")
def test_weights_count_over_many_windows_and_choose_at_random(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(3, 4)] * 60, (10, 50))
    drawn = set()
    for epoch in range(3):
        planner = plan.Planner(data, batch_tokens=30, seed=1, weights=[3.0, 1.0])
        counts = Counter(itertools.chain(*as_lists(planner.epoch(epoch))))
        assert sum(counts[index] for index in range(10)) == 45
        assert {counts[index] for index in range(10)} == {4, 5}
        assert sum(counts[index] for index in range(10, 60)) == 15
        assert max(counts[index] for index in range(10, 60)) == 1
        drawn.add(tuple(index for index in range(60) if counts[index] in {1, 5}))
    assert len(drawn) == 3


def test_a_window_of_a_large_corpus_has_as_little_padding(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_WINDOW_PAIRS", 2048)
    monkeypatch.setattr(plan, "WINDOW_PAIRS", 4096)
    lengths = _realistic_lengths(8000)
    planner = plan.Planner(make_corpus(lengths), batch_tokens=512, seed=1)
    for number in range(2):
        assert _share_of_real_tokens(lengths, planner.epoch(number), side=1) >= 0.9


def share_of_real_tokens(planner: plan.Planner, data: corpus.Corpus) -> float:
    src, tgt = data.src.lengths_of, data.tgt.lengths_of
    real = positions = 0
    for batch in planner.epoch(0):
        for lengths in (src(batch), tgt(batch)):
            real += int(lengths.sum())
            positions += int(lengths.max()) * len(batch)
    return real / positions


def test_of_sentences_like_captions_nine_positions_in_ten_are_real(
    make_corpus: MakeCorpus,
) -> None:
    """Sources and targets of like lengths, as in real text; a rest would be padded more."""
    generator = torch.Generator().manual_seed(1)
    src, ratio = (torch.randn(6000, generator=generator) for _ in range(2))
    src = src * 4 + 14
    pairs = zip(
        src.round().clamp(4, 40).int().tolist(),
        (src * (1.05 + 0.15 * ratio)).round().clamp(4, 40).int().tolist(),
        strict=True,
    )
    data = make_corpus(list(pairs))
    planner = plan.Planner(data, batch_tokens=700, seed=1)
    assert share_of_real_tokens(planner, data) > 0.955


def test_a_small_rest_is_no_pool_of_its_own(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "POOL_BATCHES", 2)
    data = make_corpus([(5, 4 + index % 2) for index in range(50)])
    # 225 tokens: were 200 a pool and 25 another, both would have pairs of both lengths.
    batches = plan.Planner(data, batch_tokens=100, seed=1).epoch(0)
    lengths = [data.tgt.lengths_of(batch).tolist() for batch in batches]
    assert sorted(lengths) == [[4] * 25, [5] * 5, [5] * 20]
