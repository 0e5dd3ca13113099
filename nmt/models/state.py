"""The decoder state of every family, and the few operations that search needs on it.

A state is a value: no operation changes the one it is given. Its entries are of four kinds:

- `sentence` [B, ...]: computed from the source, shared by all hypotheses of a sentence;
- `hypothesis` [B * K, ...]: what each hypothesis carries (recurrent states, convolution windows);
- `history` [B, H, slots, E]: what each position left behind (self-attention keys and values). Slots
  are only ever appended, K of them a position (one before hypotheses part). A hypothesis finds its
  own through `visible_BKL`, so that reordering a beam moves one small mask and no cache;
- `fixed`: computed from the weights alone (folded weight normalisation).

Worth an example: K = 2, two positions done, so four slots: a0 b0 a1 b1. If a1 grew out of a0 and b1
out of a0 as well, the first hypothesis sees {a0, a1} and the second {a0, b1}; b0 is seen by nobody.
"""

import dataclasses
from collections.abc import Mapping

import torch

# The softmax over an attention row is many times faster when its length is a multiple of the vector
# width, so slots are handed out in blocks.
SLOT_BLOCK = 16


class History:
    """An append-only buffer [B, H, slots, E] that several state values may share.

    The buffer is longer than what is filled. A state whose own length equals the filled length may
    append in place: nobody else has seen the slots behind it. Any other state (an older value that
    is stepped again) gets a copy first, so that values stay values.
    """

    def __init__(self, buffer_BHLE: torch.Tensor, length: int) -> None:
        self._buffer_BHLE = buffer_BHLE
        self._length = length

    @classmethod
    def empty(cls, like_BHSE: torch.Tensor) -> "History":
        """Returns a history without slots, all but the third axis as in `like_BHSE`."""
        return cls(torch.zeros_like(like_BHSE[:, :, :0]), 0)

    def append(self, entries_BHKE: torch.Tensor, length: int) -> "History":
        """Returns the history of `length` slots with K more behind them.

        Args:
            entries_BHKE: an entry for every hypothesis.
            length: slots of the state that appends.
        """
        end = length + entries_BHKE.shape[2]
        owner = self
        if self._length != length or self._buffer_BHLE.shape[2] < end:
            # Growing by half keeps the copies linear in the final length.
            num_sentences, num_heads, _, size = self._buffer_BHLE.shape
            capacity = padded_length(max(end, end * 3 // 2))
            buffer_BHLE = entries_BHKE.new_empty((num_sentences, num_heads, capacity, size))
            buffer_BHLE[:, :, :length] = self._buffer_BHLE[:, :, :length]
            owner = History(buffer_BHLE, length)
        owner._buffer_BHLE[:, :, length:end] = entries_BHKE
        # Zeros, since the slots behind the end are multiplied by weights of exactly zero. Those of a
        # block that was begun before have them already.
        if owner is not self or padded_length(length) < end:
            owner._buffer_BHLE[:, :, end : padded_length(end)] = 0.0
        owner._length = end
        return owner

    def padded(self, length: int) -> torch.Tensor:
        """Returns the slots [B, H, padded_length(length), E] as a view."""
        return self._buffer_BHLE[:, :, : padded_length(length)]

    def keep(self, sentences: torch.Tensor) -> "History":
        """Returns a copy with these sentences only."""
        return History(self._buffer_BHLE.index_select(0, sentences), self._length)


def padded_length(length: int) -> int:
    """Returns the number of slots rounded up to whole blocks."""
    return -(-length // SLOT_BLOCK) * SLOT_BLOCK


@dataclasses.dataclass(frozen=True)
class DecoderState:
    """A decoder between two positions; see the module's docstring.

    Attributes:
        position: target positions done so far.
        num_hypotheses: K, the same for every sentence.
        sentence: per-sentence tensors [B, ...].
        hypothesis: per-hypothesis tensors [B * K, ...]; K neighbours belong to one sentence.
        history: append-only buffers of `num_slots` slots.
        visible_BKL: additive mask [B, K, padded slots], 0 at a hypothesis' own slots and -inf at
            others; None where there is no history.
        fixed: tensors that depend on the weights alone.
        num_shared: positions that were done before the state was expanded to K hypotheses.
    """

    position: int = 0
    num_hypotheses: int = 1
    sentence: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    hypothesis: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    history: Mapping[str, History] = dataclasses.field(default_factory=dict)
    visible_BKL: torch.Tensor | None = None
    fixed: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    num_shared: int = 0

    @property
    def num_slots(self) -> int:
        """Slots of each history."""
        return self.num_shared + (self.position - self.num_shared) * self.num_hypotheses


def start_history(num_sentences: int, like: torch.Tensor) -> torch.Tensor:
    """Returns the mask [B, 1, 0] of a state that has a history but no slots yet."""
    return like.new_zeros((num_sentences, 1, 0))


def see_own_slot(state: DecoderState) -> torch.Tensor:
    """Returns the mask [B, K, padded slots] after one more position, each hypothesis seeing its own.

    Args:
        state: a state with a history, before the new slots are counted.
    """
    visible_BKL = state.visible_BKL
    assert visible_BKL is not None, "a family with history starts with start_history"
    num_sentences, beam, width = visible_BKL.shape
    begin, end = state.num_slots, state.num_slots + beam
    new_BKL = visible_BKL.new_full((num_sentences, beam, padded_length(end)), float("-inf"))
    new_BKL[:, :, :width] = visible_BKL
    own_KK = new_BKL[:, :, begin:end]
    own_KK.diagonal(dim1=1, dim2=2).zero_()
    return new_BKL


def expand(state: DecoderState, num_hypotheses: int) -> DecoderState:
    """Returns a state of single hypotheses (K = 1) with every sentence's hypothesis repeated."""
    assert state.num_hypotheses == 1, "only a single hypothesis can be expanded"
    return dataclasses.replace(
        state,
        num_hypotheses=num_hypotheses,
        num_shared=state.position,
        hypothesis={
            name: entry.repeat_interleave(num_hypotheses, dim=0)
            for name, entry in state.hypothesis.items()
        },
        visible_BKL=None
        if state.visible_BKL is None
        else state.visible_BKL.repeat(1, num_hypotheses, 1),
    )


def reorder(state: DecoderState, parents_BK: torch.Tensor) -> DecoderState:
    """Returns the state in which hypothesis k of a sentence continues hypothesis parents[b, k].

    Args:
        state: the state to take hypotheses from.
        parents_BK: int64, each in [0, K).
    """
    num_sentences, beam = parents_BK.shape
    offsets_B1 = torch.arange(num_sentences, device=parents_BK.device).unsqueeze(1) * beam
    rows_N = (parents_BK + offsets_B1).flatten()
    visible_BKL = state.visible_BKL
    if visible_BKL is not None:
        visible_BKL = visible_BKL.flatten(0, 1).index_select(0, rows_N).view(visible_BKL.shape)
    hypothesis = {name: entry.index_select(0, rows_N) for name, entry in state.hypothesis.items()}
    return dataclasses.replace(state, hypothesis=hypothesis, visible_BKL=visible_BKL)


def keep(state: DecoderState, sentences: torch.Tensor) -> DecoderState:
    """Returns the state of these sentences only.

    Args:
        state: B sentences.
        sentences: int64, the sentences that stay, in their new order.
    """
    beam = state.num_hypotheses
    rows_N = (sentences.unsqueeze(1) * beam + torch.arange(beam, device=sentences.device)).flatten()
    visible_BKL = state.visible_BKL
    return dataclasses.replace(
        state,
        sentence={n: entry.index_select(0, sentences) for n, entry in state.sentence.items()},
        hypothesis={n: entry.index_select(0, rows_N) for n, entry in state.hypothesis.items()},
        history={n: entry.keep(sentences) for n, entry in state.history.items()},
        visible_BKL=None if visible_BKL is None else visible_BKL.index_select(0, sentences),
    )
