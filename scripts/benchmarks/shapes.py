"""The models that are measured, and how many operations one of their tokens is worth.

Useful operations are those that the model's mathematics asks for: none for padding, none for looking
embeddings up, none for what a program does besides. A weight that multiplies costs 6 operations a
token: 2 in the forward pass, 4 in the backward pass (gradients of inputs and of weights). The output
layer counts, although it is the embedding table. The two products of an attention cost, for each
pair of positions that the mask lets meet, 2 multiply-adds a unit of width, thus 12 operations.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

OPERATIONS = 6  # of a multiply-add, forward and backward
DROPOUT = 0.1


@dataclasses.dataclass(frozen=True)
class LengthSums:
    """What the operations of a corpus depend on; lengths in tokens, EOS included.

    Attributes:
        pairs: number of pairs.
        src: sum of the source lengths S.
        tgt: sum of the target lengths T.
        src_src: sum of S * S.
        tgt_tgt: sum of T * (T + 1) / 2, what a causal mask lets meet.
        tgt_src: sum of T * S.
    """

    pairs: int
    src: int
    tgt: int
    src_src: int
    tgt_tgt: int
    tgt_src: int

    @classmethod
    def of(cls, lengths: Iterable[tuple[int, int]]) -> "LengthSums":
        """Sums up pairs of lengths (source, target)."""
        pairs = list(lengths)
        return cls(
            pairs=len(pairs),
            src=sum(src for src, _ in pairs),
            tgt=sum(tgt for _, tgt in pairs),
            src_src=sum(src * src for src, _ in pairs),
            tgt_tgt=sum(tgt * (tgt + 1) // 2 for _, tgt in pairs),
            tgt_src=sum(src * tgt for src, tgt in pairs),
        )


@dataclasses.dataclass(frozen=True)
class Transformer:
    """A Transformer with equal encoder and decoder and one embedding table for everything."""

    layers: int
    width: int
    feedforward: int
    heads: int

    def sections(self) -> dict[str, Any]:
        """Returns the model as nmt's configuration names it."""
        side = {
            "type": "transformer",
            "num_layers": self.layers,
            "hidden_size": self.width,
            "feedforward_size": self.feedforward,
            "num_heads": self.heads,
            "dropout": DROPOUT,
            "activation_dropout": 0.0,  # MarianMT has none
        }
        return {"encoder": side, "decoder": side}

    def multiply_adds(self, sums: LengthSums, vocab_size: int) -> int:
        """Returns those of a forward pass over a corpus."""
        square, feed = self.width**2, 2 * self.width * self.feedforward
        # The decoder attends twice; keys and values of the second time are made of source tokens.
        src_weights = self.layers * (4 * square + feed + 2 * square)
        tgt_weights = self.layers * (6 * square + feed) + self.width * vocab_size
        meetings = self.layers * (sums.src_src + sums.tgt_tgt + sums.tgt_src)
        return sums.src * src_weights + sums.tgt * tgt_weights + 2 * self.width * meetings


@dataclasses.dataclass(frozen=True)
class Lstm:
    """One LSTM layer a side, attention (Luong et al. 2015) with input feeding; embedding as wide."""

    width: int

    def sections(self) -> dict[str, Any]:
        """Returns the model as nmt's configuration names it."""
        side = {
            "type": "rnn",
            "cell": "lstm",
            "num_layers": 1,
            "embedding_size": self.width,
            "hidden_size": self.width,
            "dropout": DROPOUT,
        }
        decoder = {"attention": "general", "input_feeding": True}
        return {"encoder": side | {"bidirectional": False}, "decoder": side | decoder}

    def multiply_adds(self, sums: LengthSums, vocab_size: int) -> int:
        """Returns those of a forward pass over a corpus."""
        square = self.width**2
        # Four gates over input and state; the attention's key. The decoder's input is twice as wide.
        src_weights = 8 * square + square
        # Four gates, then the attentional vector of state and context.
        tgt_weights = 12 * square + 2 * square + self.width * vocab_size
        first_states = 2 * square * sums.pairs
        attention = 2 * self.width * sums.tgt_src
        return sums.src * src_weights + sums.tgt * tgt_weights + first_states + attention


@dataclasses.dataclass(frozen=True)
class ConvS2S:
    """Gated convolutions with an attention in each layer of the decoder (Gehring et al. 2017)."""

    encoder_layers: int
    decoder_layers: int
    width: int
    kernel: int

    def sections(self) -> dict[str, Any]:
        """Returns the model as nmt's configuration names it."""
        side = {
            "type": "cnn",
            "embedding_size": self.width,
            "hidden_size": self.width,
            "kernel_size": self.kernel,
            "dropout": DROPOUT,
        }
        return {
            "encoder": side | {"num_layers": self.encoder_layers},
            "decoder": side | {"num_layers": self.decoder_layers},
        }

    def multiply_adds(self, sums: LengthSums, vocab_size: int) -> int:
        """Returns those of a forward pass over a corpus."""
        square = self.width**2
        convolution = 2 * self.kernel * square
        # Each side is mapped once before and once behind its convolutions.
        src_weights = 2 * square + self.encoder_layers * convolution
        tgt_weights = 2 * square + self.decoder_layers * (convolution + 2 * square)
        tgt_weights += self.width * vocab_size
        attention = 2 * self.width * self.decoder_layers * sums.tgt_src
        return sums.src * src_weights + sums.tgt * tgt_weights + attention


Shape = Transformer | Lstm | ConvS2S

SHAPES: dict[str, Shape] = {
    "transformer-128": Transformer(layers=4, width=128, feedforward=256, heads=4),
    "transformer-512": Transformer(layers=6, width=512, feedforward=1024, heads=4),
    "lstm-512": Lstm(width=512),
    "convs2s-256": ConvS2S(encoder_layers=4, decoder_layers=3, width=256, kernel=3),
}


def operations_per_token(shape: Shape, sums: LengthSums, vocab_size: int) -> float:
    """Returns the useful operations of training, forward and backward, by real target token."""
    return OPERATIONS * shape.multiply_adds(sums, vocab_size) / sums.tgt
