"""Batches hold each pair once, in order, with BOS, EOS and padding in their places."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data import batches, corpus, plan
from nmt.runtime import device as devices
from nmt.text import vocab

MakeCorpus = Callable[..., corpus.Corpus]

# Special ids differ between the sides, so that one side's cannot stand for the other's.
SRC = vocab.Vocab(("",) * 10, unk_id=0, bos_id=1, eos_id=2, pad_id=3)
TGT = vocab.Vocab(("",) * 10, unk_id=4, bos_id=5, eos_id=6, pad_id=7)
START = plan.Position()
CPU = torch.device("cpu")
LENGTHS = st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9)), min_size=1, max_size=12)


def collate(
    data: corpus.Corpus, indices: list[int], max_device_tokens: int | None = None
) -> batches.Batch:
    collator = batches.Collator(data, SRC, TGT, max_device_tokens)
    return collator.collate(torch.tensor(indices), START)


def pairs_of(piece: batches.Piece) -> Iterator[tuple[list[int], list[int]]]:
    """Reads the pairs back, and checks special ids and masks on the way."""
    num_rows, width = piece.tgt_in_BT.shape
    flat_out = torch.full((num_rows * width,), -1)
    flat_out[piece.real_N] = piece.tgt_out_N
    tgt_out = flat_out.view(num_rows, width)
    for row in range(num_rows):
        src_length = int(piece.src_mask_BS[row].sum())
        assert piece.src_mask_BS[row, :src_length].all()
        src = piece.src_BS[row].tolist()
        assert src[src_length - 1] == SRC.eos_id
        assert set(src[src_length:]) <= {SRC.pad_id}
        tgt_length = int((tgt_out[row] >= 0).sum())
        tgt = tgt_out[row, :tgt_length].tolist()
        assert tgt[-1] == TGT.eos_id
        assert piece.tgt_in_BT[row, :tgt_length].tolist() == [TGT.bos_id, *tgt[:-1]]
        yield src[: src_length - 1], tgt[:-1]


def wanted_pairs(data: corpus.Corpus, indices: list[int]) -> list[tuple[list[int], list[int]]]:
    return [(data.src.sentence(index), data.tgt.sentence(index)) for index in indices]


def test_padding_goes_to_the_end_and_the_mask_marks_what_is_real() -> None:
    ids, mask = batches.pad([torch.tensor([5, 6]), torch.tensor([7, 8, 9]), torch.tensor([4])], 0)
    assert ids.tolist() == [[5, 6, 0], [7, 8, 9], [4, 0, 0]]
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_a_piece_written_out(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(4, 2), (2, 3)])  # sources 10 11 12 and 13, targets 14 and 15 16
    (piece,) = collate(data, [0, 1]).pieces
    assert piece.src_BS.tolist() == [[10, 11, 12, 2], [13, 2, 3, 3]]
    assert piece.src_mask_BS.tolist() == [[True] * 4, [True, True, False, False]]
    # Behind the EOS of a target stands padding, which no loss reads.
    assert piece.tgt_in_BT[0, :2].tolist() == [5, 14]
    assert piece.tgt_in_BT[1].tolist() == [5, 15, 16]
    assert piece.real_N.tolist() == [0, 1, 3, 4, 5]
    assert piece.tgt_out_N.tolist() == [14, 6, 15, 16, 6]
    for ids in (piece.src_BS, piece.tgt_in_BT, piece.real_N, piece.tgt_out_N):
        assert ids.dtype == torch.int64
    assert piece.src_mask_BS.dtype == torch.bool


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, limit=st.none() | st.integers(1, 40), order=st.randoms())
def test_cutting_neither_loses_nor_repeats_a_pair(
    make_corpus: MakeCorpus, lengths: list[tuple[int, int]], limit: int | None, order: object
) -> None:
    data = make_corpus(lengths)
    indices = list(range(len(lengths)))
    order.shuffle(indices)  # type: ignore[attr-defined]
    batch = collate(data, indices, limit)
    found = [pair for piece in batch.pieces for pair in pairs_of(piece)]
    assert found == wanted_pairs(data, indices)


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, limit=st.integers(1, 40))
def test_no_piece_has_more_positions_than_the_device_takes(
    make_corpus: MakeCorpus, lengths: list[tuple[int, int]], limit: int
) -> None:
    pieces = collate(make_corpus(lengths), list(range(len(lengths))), limit).pieces
    for piece in pieces:
        fits = piece.src_BS.numel() <= limit and piece.tgt_in_BT.numel() <= limit
        assert fits or piece.src_BS.shape[0] == 1, "a single pair cannot be cut"
    # And none is cut off early: with the first pair of the next piece it would be too large.
    begin = 0
    for piece, following in itertools.pairwise(pieces):
        end = begin + piece.src_BS.shape[0]
        width = max(max(pair) for pair in lengths[begin : end + 1])
        assert (end + 1 - begin) * width > limit
        assert following.src_BS.shape[0] >= 1
        begin = end


@pytest.mark.parametrize("lengths", [[(9, 2)] * 4, [(2, 9)] * 4])
def test_either_side_can_fill_a_piece(
    make_corpus: MakeCorpus, lengths: list[tuple[int, int]]
) -> None:
    pieces = collate(make_corpus(lengths), [0, 1, 2, 3], 18).pieces
    assert [piece.src_BS.shape[0] for piece in pieces] == [2, 2]


def test_a_pair_that_is_too_large_alone_is_a_piece(make_corpus: MakeCorpus) -> None:
    pieces = collate(make_corpus([(2, 2), (9, 9), (2, 2), (2, 2)]), [0, 1, 2, 3], 4).pieces
    assert [piece.src_BS.shape[0] for piece in pieces] == [1, 1, 2]


def test_without_a_limit_the_batch_is_one_piece(make_corpus: MakeCorpus) -> None:
    assert len(collate(make_corpus([(9, 9)] * 50), list(range(50))).pieces) == 1


def test_tokens_pairs_and_positions_are_counted(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(9, 9), (3, 2), (5, 4), (2, 8)])
    whole = collate(data, [1, 2, 3])
    assert (whole.num_tokens, whole.num_src_tokens, whole.num_pairs) == (14, 10, 3)
    assert whole.num_padded == 3 * 8
    cut = collate(data, [1, 2, 3], 10)  # the first two together, 2 by 4 target positions, then 8
    assert (cut.num_tokens, cut.num_src_tokens, cut.num_pairs) == (14, 10, 3)
    assert cut.num_padded == 2 * 4 + 8
    assert sum(piece.tgt_out_N.numel() for piece in cut.pieces) == cut.num_tokens


def test_a_batch_carries_the_position_behind_it(make_corpus: MakeCorpus) -> None:
    collator = batches.Collator(make_corpus([(2, 2)]), SRC, TGT, None)
    behind = plan.Position(3, 4)
    assert collator.collate(torch.tensor([0]), behind).behind == behind


def make_loader(data: corpus.Corpus, seed: int = 1) -> tuple[plan.Planner, batches.Loader]:
    planner = plan.Planner(data, batch_tokens=20, seed=seed)
    return planner, batches.Loader(planner, batches.Collator(data, SRC, TGT, 12), CPU)


def test_the_loader_yields_every_batch_of_the_plan_in_order(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(2 + index % 7, 2 + index % 5) for index in range(30)])
    planner, loader = make_loader(data)
    assert loader.epoch_batches == len(planner.epoch(0))
    num_batches = len(planner.epoch(0)) + 3  # on into the next epoch
    planned = itertools.islice(planner.batches(START), num_batches)
    for (behind, indices), batch in zip(planned, loader.batches(START), strict=False):
        found = [pair for piece in batch.pieces for pair in pairs_of(piece)]
        assert found == wanted_pairs(data, indices.tolist())
        assert batch.behind == behind


def test_the_loader_goes_on_from_any_position(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(2 + index % 7, 2 + index % 5) for index in range(12)])
    _, loader = make_loader(data)
    whole = list(itertools.islice(loader.batches(START), 2 * loader.epoch_batches))
    for number, batch in enumerate(whole[:-1]):
        following = next(loader.batches(batch.behind))
        assert following.behind == whole[number + 1].behind
        for found, wanted in zip(following.pieces, whole[number + 1].pieces, strict=True):
            assert torch.equal(found.src_BS, wanted.src_BS)
            assert torch.equal(found.tgt_out_N, wanted.tgt_out_N)


class FinitePlanner(plan.Planner):
    """A plan of one epoch, after which nothing comes, and how much of it was asked for."""

    def __init__(self, data: corpus.Corpus, num_batches: int) -> None:
        super().__init__(data, batch_tokens=20, seed=1)
        self.num_batches, self.num_asked = num_batches, 0

    def batches(self, start: plan.Position) -> Iterator[tuple[plan.Position, torch.Tensor]]:
        for number in range(start.batch, self.num_batches):
            self.num_asked += 1
            yield plan.Position(0, number + 1), torch.tensor([number])


class RecordedStream:
    """A side stream that writes down what is copied and waited for, by source ids."""

    events: list[tuple[str, list[list[int]]]]

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def copy(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.events.append(("copy", tensors["src_BS"].tolist()))
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def wait(self, tensors: dict[str, torch.Tensor]) -> None:
        assert len(tensors) == 5, "every tensor of a piece is waited for"
        self.events.append(("wait", tensors["src_BS"].tolist()))


@pytest.mark.parametrize("num_batches", [0, 1, 3])
def test_the_last_batch_of_a_finite_plan_is_not_lost(
    make_corpus: MakeCorpus, num_batches: int
) -> None:
    data = make_corpus([(3, 3)] * 3)
    planner = FinitePlanner(data, num_batches)
    loader = batches.Loader(planner, batches.Collator(data, SRC, TGT, None), CPU)
    behind = [batch.behind.batch for batch in loader.batches(START)]
    assert behind == list(range(1, num_batches + 1))


def test_the_next_copy_begins_before_a_batch_is_waited_for(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordedStream, "events", [], raising=False)
    monkeypatch.setattr(devices, "SideStream", RecordedStream)
    data = make_corpus([(2, 2), (2, 2), (2, 2)])
    planner = FinitePlanner(data, 3)
    loader = batches.Loader(planner, batches.Collator(data, SRC, TGT, None), CPU)
    stream = loader.batches(START)
    first = next(stream)
    assert planner.num_asked == 2
    list(stream)
    one, two, three = ([[token, SRC.eos_id]] for token in (10, 11, 12))
    assert RecordedStream.events == [
        ("copy", one),
        ("copy", two),
        ("wait", one),
        ("copy", three),
        ("wait", two),
        ("wait", three),
    ]
    assert first.pieces[0].src_BS.tolist() == one


@settings(deadline=None, max_examples=60)
@given(
    lengths=LENGTHS,
    limit=st.none() | st.integers(1, 40),
    num_ranks=st.integers(1, 5),
    order=st.randoms(),
)
def test_ranks_together_have_the_batch_and_each_knows_its_size(
    make_corpus: MakeCorpus,
    lengths: list[tuple[int, int]],
    limit: int | None,
    num_ranks: int,
    order: object,
) -> None:
    data = make_corpus(lengths)
    indices = list(range(len(lengths)))
    order.shuffle(indices)  # type: ignore[attr-defined]
    whole = collate(data, indices)
    collator = batches.Collator(data, SRC, TGT, limit)
    shares = [
        collator.collate(torch.tensor(indices), START, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    for rank, share in enumerate(shares):
        found = [pair for piece in share.pieces for pair in pairs_of(piece)]
        assert found == wanted_pairs(data, indices[rank::num_ranks])
        assert bool(share.pieces) == (rank < len(indices))
        for name in ("num_tokens", "num_src_tokens", "num_pairs", "behind"):
            assert getattr(share, name) == getattr(whole, name)
    padded = sum(piece.tgt_in_BT.numel() for share in shares for piece in share.pieces)
    assert {share.num_padded for share in shares} == {padded}


def test_the_loader_of_a_rank_yields_its_share(make_corpus: MakeCorpus) -> None:
    data = make_corpus([(2 + index % 7, 2 + index % 5) for index in range(30)])
    planner = plan.Planner(data, batch_tokens=20, seed=1)
    collator = batches.Collator(data, SRC, TGT, None)
    loaders = [
        batches.Loader(planner, collator, CPU, rank=rank, num_ranks=2).batches(START)
        for rank in range(2)
    ]
    for _, indices in itertools.islice(planner.batches(START), 9):
        for rank, loader in enumerate(loaders):
            found = [pair for piece in next(loader).pieces for pair in pairs_of(piece)]
            assert found == wanted_pairs(data, indices.tolist()[rank::2])


@given(LENGTHS, st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_cut_pieces_hold_the_same_pairs_and_no_more_padding_than_they_need(
    make_corpus: MakeCorpus, lengths: list[tuple[int, int]], limit: int
) -> None:
    data, indices = make_corpus(lengths), list(range(len(lengths)))
    whole = collate(data, indices).pieces
    pieces = batches.fitted(whole, limit)
    assert [pair for piece in pieces for pair in pairs_of(piece)] == wanted_pairs(data, indices)
    for piece in pieces:
        assert batches.num_positions(piece) <= limit or piece.src_BS.shape[0] == 1
        assert piece.src_mask_BS.any(0).all(), "a column of padding alone"
        assert int((piece.real_N % piece.tgt_in_BT.shape[1]).max()) + 1 == piece.tgt_in_BT.shape[1]
        assert piece.src_BS.shape == piece.src_mask_BS.shape


def test_pieces_that_fit_are_left_as_they_are(make_corpus: MakeCorpus) -> None:
    whole = collate(make_corpus([(4, 2), (2, 5)]), [0, 1]).pieces
    assert batches.num_positions(whole[0]) == 10
    for limit in (None, 10):
        (piece,) = batches.fitted(whole, limit)
        assert piece is whole[0]
    assert [p.src_BS.shape[0] for p in batches.fitted(whole, 9)] == [1, 1]
