"""The whole model: embeddings, an encoder, a decoder and the output layer."""

import torch
from torch import nn

from nmt import errors
from nmt.config import schema
from nmt.models import base, packed, registry
from nmt.models import state as decoder_state


class Seq2Seq(nn.Module):
    """Any encoder with any decoder; keeps the contract of `base.Model`.

    The output layer stands apart from `forward`, so that the loss can work on real tokens only and
    search on part of the vocabulary.
    """

    def __init__(
        self,
        encoder: base.Encoder,
        decoder: base.Decoder,
        src_embedding: nn.Embedding,
        tgt_embedding: nn.Embedding,
        output: nn.Linear,
    ) -> None:
        super().__init__()
        self.src_embedding = src_embedding
        self.tgt_embedding = tgt_embedding
        self.encoder = encoder
        self.decoder = decoder
        self.output = output
        self.attends = decoder.attends
        self.max_src_positions = encoder.max_positions
        self.max_tgt_positions = decoder.max_positions

    def encode(self, src_BS: torch.Tensor, src_mask_BS: torch.Tensor) -> base.Memory:
        """Returns the memory.

        Args:
            src_BS: int64 ids, EOS at the end of each sentence, any id at padding.
            src_mask_BS: bool, True at real tokens.
        """
        return self.encoder.encode(self.src_embedding(src_BS), src_mask_BS)

    def forward(
        self,
        src_BS: torch.Tensor,
        src_mask_BS: torch.Tensor,
        tgt_in_BT: torch.Tensor,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns decoder states [B, T, E] under teacher forcing, and attention [B, T, S] if wanted.

        Args:
            src_BS: int64 source ids.
            src_mask_BS: bool, True at real tokens.
            tgt_in_BT: int64 target ids shifted right: BOS first, no EOS.
            with_attention: whether attention weights are wanted.
        """
        memory = self.encode(src_BS, src_mask_BS)
        embedded_BTE = self.tgt_embedding(tgt_in_BT)
        return self.decoder.decode(embedded_BTE, memory, with_attention=with_attention)

    def start(self, memory: base.Memory) -> decoder_state.DecoderState:
        """Returns the state before the first target token; see `base.Decoder.start`."""
        return self.decoder.start(memory)

    def step(
        self,
        tokens_N: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Goes one position on; see `base.Decoder.step`."""
        return self.decoder.step(self.tgt_embedding(tokens_N), state, with_attention=with_attention)

    def logits(self, states: torch.Tensor, shortlist: torch.Tensor | None = None) -> torch.Tensor:
        """Returns unnormalised scores [..., V].

        Args:
            states: what `forward` or `step` returned, [..., E].
            shortlist: int64 ids; only their scores are returned, [..., len(shortlist)].
        """
        layer = self.output if shortlist is None else packed.narrowed(self.output, shortlist)
        scores: torch.Tensor = layer(states)
        return scores

    def num_parameters(self) -> int:
        """Returns the number of trained weights, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


def build(config: schema.ModelConfig, num_src: int, num_tgt: int, *, shared: bool) -> Seq2Seq:
    """Returns a freshly initialised model.

    Args:
        config: the encoder, the decoder, and how embeddings are tied.
        num_src: size of the source vocabulary.
        num_tgt: size of the target vocabulary.
        shared: whether the two vocabularies are one.

    Raises:
        errors.ConfigError: `tie_embeddings: all` where vocabularies or widths differ.
    """
    encoder = registry.build_encoder(config.encoder)
    decoder = registry.build_decoder(config.decoder, encoder.output_size)
    src_size, tgt_size = encoder.embedding_size, decoder.embedding_size
    can_tie_all = shared and src_size == tgt_size
    tie = config.tie_embeddings
    if tie == "auto":
        tie = "all" if can_tie_all else "decoder"
    if tie == "all" and not can_tie_all:
        raise errors.ConfigError(
            "model.tie_embeddings: all wants one vocabulary and one embedding width "
            f"(given: widths {src_size} and {tgt_size}, "
            f"{'one vocabulary' if shared else 'two vocabularies'}). Take decoder or none."
        )
    tgt_embedding = _embedding(num_tgt, tgt_size)
    src_embedding = tgt_embedding if tie == "all" else _embedding(num_src, src_size)
    output = nn.Linear(tgt_size, num_tgt, bias=False)
    if tie == "none":
        nn.init.normal_(output.weight, std=tgt_size**-0.5)
    else:
        output.weight = tgt_embedding.weight
    return Seq2Seq(encoder, decoder, src_embedding, tgt_embedding, output)


def _embedding(num_pieces: int, size: int) -> nn.Embedding:
    """Returns a table with variance 1 / size, which suits it as an output layer, too."""
    embedding = nn.Embedding(num_pieces, size)
    nn.init.normal_(embedding.weight, std=size**-0.5)
    return embedding
