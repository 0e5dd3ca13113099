"""What changes of a sentence each time it is trained on: its pieces, and its damage.

Subword sampling cuts a text into other pieces (Kudo 2018; Provilkov et al. 2020); noise damages the
source of a text that is to be restored (Lewis et al. 2020).
"""

import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import Protocol

import torch

from nmt.data import corpus, filters, plan, readers


class Tokenizer(Protocol):
    """What sampling needs of a tokenizer."""

    def sample_batch(self, texts: Sequence[str], seed: int) -> list[list[int]]:
        """Returns ids of each text, drawn by a seed, without BOS and EOS."""


class Noise(Protocol):
    """What damages a sentence."""

    def apply(self, ids: Sequence[int], generator: random.Random) -> list[int]:
        """Returns a damaged copy of ids without BOS, EOS and tags."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What is to be known of the sources of a corpus entry.

    Attributes:
        num_tags: pieces that they begin with, which stay as they are.
        is_mono: whether they are damaged.
    """

    num_tags: int = 0
    is_mono: bool = False


class Sampler:
    """Draws pieces and damage for a batch; what is drawn depends on seed and position alone."""

    def __init__(
        self,
        src_tokenizer: Tokenizer | None,
        tgt_tokenizer: Tokenizer | None,
        pair_filter: filters.PairFilter,
        seed: int,
        *,
        sources: Sequence[Source] = (),
        noise: Noise | None = None,
    ) -> None:
        """Takes the tokenizers of the sides that are sampled.

        Args:
            src_tokenizer: of the source side, or None to leave it as it is.
            tgt_tokenizer: of the target side, or None to leave it as it is.
            pair_filter: a sample that is longer than it allows gives way to the usual pieces.
            seed: of the run.
            sources: of each corpus entry; none where no entry has tags or is damaged.
            noise: damages the sources of text in one language; None where there is none.
        """
        self._tokenizers = {"src": src_tokenizer, "tgt": tgt_tokenizer}
        self._limits = {"src": pair_filter.max_src_length, "tgt": pair_filter.max_tgt_length}
        self._seed = seed
        self._sources = sources
        self._noise = noise

    def draw(
        self, data: corpus.Data, indices: torch.Tensor, position: plan.Position
    ) -> tuple[corpus.Side, corpus.Side]:
        """Returns both sides of a batch alone, in the order of its pairs.

        Args:
            data: the whole corpus.
            indices: int64 [P], the pairs of the batch.
            position: of the batch.
        """
        if not self._sources:
            tags = [Source()] * indices.numel()
        else:
            tags = [self._sources[number] for number in data.entries_of(indices)]
        src = self._sentences(data.src, "src", indices, position, [one.num_tags for one in tags])
        if self._noise is not None:
            generator = random.Random(self._stream(position, len(self._tokenizers)))
            src = [
                self._damaged(ids, one, generator) if one.is_mono else ids
                for ids, one in zip(src, tags, strict=True)
            ]
        tgt = self._sentences(data.tgt, "tgt", indices, position, [0] * indices.numel())
        return _side(src), _side(tgt)

    def _sentences(
        self,
        data: corpus.Side,
        side: readers.Side,
        indices: torch.Tensor,
        position: plan.Position,
        num_tags: Sequence[int],
    ) -> list[list[int]]:
        """Returns the ids of one side, of which so many first ones are tags and not drawn."""
        usual = [data.sentence(index) for index in indices.tolist()]
        tokenizer = self._tokenizers[side]
        if tokenizer is None:
            return usual
        seed = self._stream(position, ("src", "tgt").index(side))
        drawn = tokenizer.sample_batch(data.texts(indices), seed)
        return [
            [*sentence[:tags], *sample]
            if sample and tags + len(sample) < self._limits[side]
            else sentence
            for sample, sentence, tags in zip(drawn, usual, num_tags, strict=True)
        ]

    def _damaged(self, ids: list[int], source: Source, generator: random.Random) -> list[int]:
        assert self._noise is not None, "asked for where there is noise"
        tags, text = ids[: source.num_tags], ids[source.num_tags :]
        # Masks between units can make a sentence longer by a few.
        return [*tags, *self._noise.apply(text, generator)][: self._limits["src"] - 1]

    def _stream(self, position: plan.Position, number: int) -> int:
        return plan.stream_seed(self._seed, position.epoch, position.window, position.batch, number)


def _side(sentences: Sequence[Sequence[int]]) -> corpus.Side:
    begins = [0, *itertools.accumulate(map(len, sentences))]
    ids = torch.tensor(list(itertools.chain(*sentences)), dtype=torch.int32)
    return corpus.Side(ids, torch.tensor(begins))
