"""The work of a peer that cannot load the weights: random ones, and each output as long as nmt's.

A random model ends where it likes, so the lengths are forced: EOS is forbidden before a sentence's
length and the only choice at it. All hypotheses of a sentence end together, as late as nmt's best one:
a search that may stop earlier than others does not stop earlier here.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch


class Sentences:
    """Source sentences in batches, with the lengths that their outputs have to have.

    Attributes:
        specials: the ids of unk, bos, eos and pad.
        vocab_size: pieces of the larger one of the vocabularies.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        content = json.loads(Path(job["data"]).read_text(encoding="ascii"))
        self.specials: dict[str, int] = content["specials"]
        self.vocab_size: int = content["vocab_size"]
        eos = self.specials["eos"]
        self._sources = [torch.tensor([*ids, eos]) for ids in content["sources"]]
        self._lengths: list[int] = content["lengths"]

    @property
    def num_tokens(self) -> int:
        """Tokens of all outputs, EOS included."""
        return sum(self._lengths)

    def batches(self, size: int) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Yields places, padded sources, longest first as nmt has them, and lengths of outputs."""
        order = sorted(range(len(self._sources)), key=lambda index: -len(self._sources[index]))
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            src = torch.nn.utils.rnn.pad_sequence(
                [self._sources[index] for index in chosen],
                batch_first=True,
                padding_value=self.specials["pad"],
            )
            yield chosen, src, torch.tensor([self._lengths[index] for index in chosen])


def force(
    scores: torch.Tensor, lengths: torch.Tensor, length: int, eos: int, never: Sequence[int]
) -> torch.Tensor:
    """Returns scores [N, V] with which each row ends at its length and not before.

    Args:
        scores: of the next token; changed in place.
        lengths: int64 [N], what each row's output has to have, EOS included.
        length: of all rows after the next token.
        eos: its id.
        never: ids that no output has.
    """
    lowest = float("-inf")
    scores[:, list(never)] = lowest
    ends = lengths <= length
    kept = scores[:, eos].masked_fill(~ends, lowest)
    # Rows that go on are not touched: forcing must cost a peer next to nothing.
    if ends.any():
        scores[ends] = lowest
    scores[:, eos] = kept
    return scores
