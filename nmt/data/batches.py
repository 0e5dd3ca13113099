"""From indices of pairs to padded tensors, in pieces that fit the device, on the device."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import torch

from nmt.data import corpus, plan
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
    """

    src_BS: torch.Tensor
    src_mask_BS: torch.Tensor
    tgt_in_BT: torch.Tensor
    real_N: torch.Tensor
    tgt_out_N: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Batch:
    """The pairs of one update.

    Attributes:
        pieces: together the whole batch, each small enough for the device.
        num_tokens: real target tokens, EOS included.
        num_src_tokens: real source tokens, EOS included.
        num_padded: target positions, padding included.
        num_pairs: sentence pairs.
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
            )
        )
    return halves[0], halves[1]


class Collator:
    """Makes batches of indices, on the host."""

    def __init__(
        self,
        data: corpus.Corpus,
        src_vocab: vocab.Vocab,
        tgt_vocab: vocab.Vocab,
        max_device_tokens: int | None,
    ) -> None:
        """Takes the corpus and the special ids.

        Args:
            data: the pairs.
            src_vocab: special ids of the source side.
            tgt_vocab: special ids of the target side.
            max_device_tokens: positions of a piece at most, on either side, padding included.
        """
        self._data = data
        self._src_vocab = src_vocab
        self._tgt_vocab = tgt_vocab
        self._max_device_tokens = max_device_tokens
        self._src_lengths = data.src.lengths
        self._tgt_lengths = data.tgt.lengths

    def collate(self, indices: torch.Tensor, behind: plan.Position) -> Batch:
        """Returns the batch of these pairs, in host memory."""
        pieces = tuple(self._piece(part) for part in self._cut(indices))
        return Batch(
            pieces=pieces,
            num_tokens=int(self._tgt_lengths[indices].sum()),
            num_src_tokens=int(self._src_lengths[indices].sum()),
            num_padded=sum(piece.tgt_in_BT.numel() for piece in pieces),
            num_pairs=indices.numel(),
            behind=behind,
        )

    def _cut(self, indices: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cuts a batch so that no piece has more positions than the device takes (one pair at least)."""
        if self._max_device_tokens is None:
            yield indices
            return
        longest = torch.maximum(self._src_lengths, self._tgt_lengths)[indices].tolist()
        begin, width = 0, 0
        for end, length in enumerate(longest):
            width = max(width, length)
            if end > begin and (end + 1 - begin) * width > self._max_device_tokens:
                yield indices[begin:end]
                begin, width = end, length
        yield indices[begin:]

    def _piece(self, indices: torch.Tensor) -> Piece:
        src_BS, src_mask_BS = self._gather(self._data.src, indices, self._src_vocab)
        tgt_BT, tgt_mask_BT = self._gather(self._data.tgt, indices, self._tgt_vocab)
        # Shifted right: BOS stands before the first token, and what follows EOS is padding anyway.
        bos_B1 = torch.full((indices.numel(), 1), self._tgt_vocab.bos_id)
        real_N = tgt_mask_BT.flatten().nonzero().squeeze(1)
        return Piece(
            src_BS=src_BS,
            src_mask_BS=src_mask_BS,
            tgt_in_BT=torch.cat([bos_B1, tgt_BT[:, :-1]], dim=1),
            real_N=real_N,
            tgt_out_N=tgt_BT.flatten()[real_N],
        )

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

    Attributes:
        epoch_batches: batches of the first epoch; others have about as many.
    """

    def __init__(self, planner: plan.Planner, collator: Collator, device: torch.device) -> None:
        self._planner = planner
        self._collator = collator
        self._stream = devices.SideStream(device)
        self.epoch_batches = len(planner.epoch(0))

    def batches(self, start: plan.Position) -> Iterator[Batch]:
        """Yields batches on the device.

        Args:
            start: the batch to go on with.
        """
        collated = (
            self._collator.collate(indices, behind)
            for behind, indices in self._planner.batches(start)
        )
        return self._ahead(collated)

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


def _tensors(piece: Piece) -> dict[str, torch.Tensor]:
    return {field.name: getattr(piece, field.name) for field in dataclasses.fields(piece)}
