"""From indices of pairs to padded tensors, in pieces that fit the device, on the device."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import torch

from nmt.data import corpus, plan, sampling, workers
from nmt.runtime import device as devices
from nmt.text import vocab


@dataclasses.dataclass(frozen=True)
class Piece:
    """What the device computes at once; shapes as in `models/base.py`.

    Attributes:
        src_BS: int64 source ids, EOS at the end, padded.
        src_mask_BS: bool, True at real tokens.
        tgt_in_BT: int64 target ids behind BOS, padded.
        real_N: int64, where in the flattened [B * T] positions a real target token stands.
        tgt_out_N: int64, those target tokens, EOS included.
        links_2L: int64, aligned pieces: a place in the flattened target positions and one in its source
            sentence; None without guided alignment.
    """

    src_BS: torch.Tensor
    src_mask_BS: torch.Tensor
    tgt_in_BT: torch.Tensor
    real_N: torch.Tensor
    tgt_out_N: torch.Tensor
    links_2L: torch.Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Batch:
    """The pairs of one update, over all ranks.

    Attributes:
        pieces: together the share of this rank, each small enough for the device; of one rank the
            whole batch. A batch with fewer pairs than ranks leaves some without any.
        num_tokens: real target tokens of all ranks, EOS included.
        num_src_tokens: real source tokens of all ranks, EOS included.
        num_padded: target positions of all ranks, padding included.
        num_pairs: sentence pairs of all ranks.
        behind: the position of the run after this batch.
    """

    pieces: tuple[Piece, ...]
    num_tokens: int
    num_src_tokens: int
    num_padded: int
    num_pairs: int
    behind: plan.Position


def pad(sentences: list[torch.Tensor], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids [B, S] padded at the end, and the mask of real ones.

    Args:
        sentences: int64 ids of each sentence, none empty.
        padding: the id that fills up.
    """
    lengths_B = torch.tensor([len(sentence) for sentence in sentences])
    ids_BS = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=padding)
    return ids_BS, torch.arange(ids_BS.shape[1]) < lengths_B.unsqueeze(1)


def num_positions(piece: Piece) -> int:
    """Returns the positions of a piece on its longer side, padding included."""
    return max(piece.src_BS.numel(), piece.tgt_in_BT.numel())


def fitted(pieces: Sequence[Piece], max_positions: int | None) -> list[Piece]:
    """Returns the pieces, each halved until it has no more positions than that (or one pair).

    Args:
        pieces: of one batch.
        max_positions: see `num_positions`; None for no limit.
    """
    found: list[Piece] = []
    for piece in pieces:
        if (
            max_positions is None
            or num_positions(piece) <= max_positions
            or piece.src_BS.shape[0] == 1
        ):
            found.append(piece)
        else:
            found += fitted(split(piece), max_positions)
    return found


def split(piece: Piece) -> tuple[Piece, Piece]:
    """Returns the first and the second half of the pairs of a piece, no wider than they need be.

    The host has to know where the halves end, so it waits for the device.

    Args:
        piece: of two pairs or more.
    """
    middle = (piece.src_BS.shape[0] + 1) // 2
    tgt_length = piece.tgt_in_BT.shape[1]
    num_real = int((piece.real_N < middle * tgt_length).sum())
    halves = []
    for rows, reals, first in (
        (slice(None, middle), slice(None, num_real), 0),
        (slice(middle, None), slice(num_real, None), middle),
    ):
        mask_BS, real_N = piece.src_mask_BS[rows], piece.real_N[reals]
        src_width = int(mask_BS.sum(1).max())
        tgt_width = int((real_N % tgt_length).max()) + 1
        # A position counts from the first row of the half, in rows of its own width.
        row_N = torch.div(real_N, tgt_length, rounding_mode="floor") - first
        halves.append(
            Piece(
                src_BS=piece.src_BS[rows, :src_width].contiguous(),
                src_mask_BS=mask_BS[:, :src_width].contiguous(),
                tgt_in_BT=piece.tgt_in_BT[rows, :tgt_width].contiguous(),
                real_N=row_N * tgt_width + real_N % tgt_length,
                tgt_out_N=piece.tgt_out_N[reals],
                links_2L=_links_of_rows(piece, first, len(mask_BS), tgt_width),
            )
        )
    return halves[0], halves[1]


def _links_of_rows(piece: Piece, first: int, num_rows: int, tgt_width: int) -> torch.Tensor | None:
    """Returns the links of some rows of a piece, for a piece of those alone of that width."""
    if piece.links_2L is None:
        return None
    tgt_length = piece.tgt_in_BT.shape[1]
    row_L = torch.div(piece.links_2L[0], tgt_length, rounding_mode="floor") - first
    kept_L = (row_L >= 0) & (row_L < num_rows)
    place_L = row_L * tgt_width + piece.links_2L[0] % tgt_length
    return torch.stack([place_L[kept_L], piece.links_2L[1][kept_L]])


class Collator:
    """Makes batches of indices, on the host."""

    def __init__(
        self,
        data: corpus.Data,
        src_vocab: vocab.Vocab,
        tgt_vocab: vocab.Vocab,
        max_device_tokens: int | None,
        sampler: sampling.Sampler | None = None,
    ) -> None:
        """Takes the corpus and the special ids.

        Args:
            data: the pairs.
            src_vocab: special ids of the source side.
            tgt_vocab: special ids of the target side.
            max_device_tokens: positions of a piece at most, on either side, padding included.
            sampler: draws other pieces, or damage, for each batch; or None.
        """
        self._data = data
        self._src_vocab = src_vocab
        self._tgt_vocab = tgt_vocab
        self._max_device_tokens = max_device_tokens
        self._sampler = sampler

    def collate(
        self, indices: torch.Tensor, behind: plan.Position, *, rank: int = 0, num_ranks: int = 1
    ) -> Batch:
        """Returns the batch of these pairs, in host memory.

        Args:
            indices: int64, the pairs of the whole batch.
            behind: the position of the run after it.
            rank: whose share is returned: every `num_ranks`-th pair from this one on.
            num_ranks: how many share the batch.
        """
        # In another process than the planner's, pairs may be there that have not been looked for.
        self._data.wait(int(indices.max()) + 1)
        src, tgt, rows = self._data.src, self._data.tgt, indices
        if self._sampler is not None:
            src, tgt = self._sampler.draw(self._data, indices, behind)
            rows = torch.arange(indices.numel())
        src_lengths, tgt_lengths = src.lengths_of(rows), tgt.lengths_of(rows)
        longest = torch.maximum(src_lengths, tgt_lengths)
        shares = [
            [part * num_ranks + number for part in self._cut(longest[number::num_ranks])]
            for number in range(num_ranks)
        ]
        return Batch(
            pieces=tuple(self._piece(src, tgt, rows[part], indices[part]) for part in shares[rank]),
            num_tokens=int(tgt_lengths.sum()),
            num_src_tokens=int(src_lengths.sum()),
            num_padded=sum(
                part.numel() * int(tgt_lengths[part].max()) for share in shares for part in share
            ),
            num_pairs=indices.numel(),
            behind=behind,
        )

    def _cut(self, longest: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields places so that no piece has more positions than the device takes (one pair at least).

        Args:
            longest: int64 [P], the longer side of each pair.
        """
        places = torch.arange(longest.numel())
        begin, width = 0, 0
        for end, length in enumerate(longest.tolist() if self._max_device_tokens else ()):
            width = max(width, length)
            if end > begin and (end + 1 - begin) * width > (self._max_device_tokens or 0):
                yield places[begin:end]
                begin, width = end, length
        if places.numel():
            yield places[begin:]

    def _piece(
        self, src: corpus.Side, tgt: corpus.Side, rows: torch.Tensor, pairs: torch.Tensor
    ) -> Piece:
        """Returns the piece of these sentences of two sides, which are those of these pairs."""
        src_BS, src_mask_BS = self._gather(src, rows, self._src_vocab)
        tgt_BT, tgt_mask_BT = self._gather(tgt, rows, self._tgt_vocab)
        # Shifted right: BOS stands before the first token, and what follows EOS is padding anyway.
        bos_B1 = torch.full((rows.numel(), 1), self._tgt_vocab.bos_id)
        real_N = tgt_mask_BT.flatten().nonzero().squeeze(1)
        return Piece(
            src_BS=src_BS,
            src_mask_BS=src_mask_BS,
            tgt_in_BT=torch.cat([bos_B1, tgt_BT[:, :-1]], dim=1),
            real_N=real_N,
            tgt_out_N=tgt_BT.flatten()[real_N],
            links_2L=self._links(pairs, tgt_BT.shape[1]),
        )

    def _links(self, indices: torch.Tensor, tgt_length: int) -> torch.Tensor | None:
        """Returns the links of pairs; see `Piece`."""
        side = self._data.links
        if side is None:
            return None
        begins_B, ends_B = side.begins[indices], side.begins[indices + 1]
        counts_B = ends_B - begins_B
        row_L = torch.arange(indices.numel()).repeat_interleave(counts_B)
        # The n-th link of all is the one so many behind the first of its row.
        before_B = counts_B.cumsum(0) - counts_B
        place_L = begins_B[row_L] + torch.arange(row_L.numel()) - before_B[row_L]
        link_L = side.ids[place_L].to(torch.int64)
        return torch.stack([row_L * tgt_length + (link_L >> 16), link_L & 0xFFFF])

    @staticmethod
    def _gather(
        side: corpus.Side, indices: torch.Tensor, ids: vocab.Vocab
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the padded ids [B, S] with EOS behind each sentence, and the mask."""
        begins_B1 = side.begins[indices].unsqueeze(1)
        lengths_B1 = side.begins[indices + 1].unsqueeze(1) - begins_B1
        offsets_1S = torch.arange(int(lengths_B1.max()) + 1).unsqueeze(0)
        # EOS and padding point at any id and are written over below.
        places_BS = (begins_B1 + offsets_1S).clamp_(max=side.ids.numel() - 1)
        ids_BS = side.ids[places_BS].to(torch.int64)
        ids_BS.masked_fill_(offsets_1S == lengths_B1, ids.eos_id)
        ids_BS.masked_fill_(offsets_1S > lengths_B1, ids.pad_id)
        return ids_BS, offsets_1S <= lengths_B1


class Loader:
    """Batches on the device, without end, from any position of a run.

    On CUDA the next batch is copied on a side stream while the last one is computed.
    """

    def __init__(
        self,
        planner: plan.Planner,
        collator: Collator,
        device: torch.device,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        num_workers: int = 0,
    ) -> None:
        """Takes what plans and what makes batches.

        Args:
            planner: which pairs make which batch; the same on every rank.
            collator: makes the batches.
            device: where they go.
            rank: of this process.
            num_ranks: processes that share each batch.
            num_workers: processes that make batches for this one; 0 makes them here.
        """
        self._planner = planner
        self._stream = devices.SideStream(device)
        self._make = functools.partial(_collate, collator, rank, num_ranks)
        self._num_workers = num_workers

    @property
    def epoch_batches(self) -> int:
        """Batches of an epoch, about; of a small corpus those of the first epoch exactly."""
        return self._planner.num_batches()

    def batches(self, start: plan.Position) -> Iterator[Batch]:
        """Yields batches on the device.

        Args:
            start: the batch to go on with.

        Raises:
            errors.DataError: a process that makes batches, or tokenises the corpus, has died.
        """
        planned = self._planner.batches(start)
        if self._num_workers:
            # Without tensors: those are handed over by a thread, which would print a traceback where a
            # worker dies while it asks for one.
            orders = ((behind, indices.tolist()) for behind, indices in planned)
            return self._ahead(workers.ordered(self._make, orders, self._num_workers))
        return self._ahead(map(self._make, planned))

    def _ahead(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields each batch after the copy of the next one has begun."""
        waiting: Batch | None = None
        for batch in batches:
            copied = self._copy(batch)
            if waiting is not None:
                yield self._ready(waiting)
            waiting = copied
        if waiting is not None:
            yield self._ready(waiting)

    def _copy(self, batch: Batch) -> Batch:
        pieces = tuple(Piece(**self._stream.copy(_tensors(piece))) for piece in batch.pieces)
        return dataclasses.replace(batch, pieces=pieces)

    def _ready(self, batch: Batch) -> Batch:
        for piece in batch.pieces:
            self._stream.wait(_tensors(piece))
        return batch


def _collate(
    collator: Collator,
    rank: int,
    num_ranks: int,
    planned: tuple[plan.Position, torch.Tensor | list[int]],
) -> Batch:
    behind, indices = planned
    return collator.collate(torch.as_tensor(indices), behind, rank=rank, num_ranks=num_ranks)


def _tensors(piece: Piece) -> dict[str, torch.Tensor]:
    """Returns what there is, by name."""
    values = {field.name: getattr(piece, field.name) for field in dataclasses.fields(piece)}
    return {name: value for name, value in values.items() if value is not None}
