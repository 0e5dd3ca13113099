"""The vocabulary: pieces by id, and the only place that knows the special ids."""

import dataclasses

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"


@dataclasses.dataclass(frozen=True)
class Vocab:
    """Pieces in the order of their ids.

    Attributes:
        pieces: all of them, special ones included.
        unk_id: stands for what no piece covers.
        bos_id: begins a target.
        eos_id: ends a source and a target.
        pad_id: fills up batches.
    """

    pieces: tuple[str, ...]
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.pieces)
