"""The shape legend, and all that the rest of the house knows of a model.

Tensors carry their shape as a suffix, one letter an axis:

    B  sentences of a batch          S  source positions       D  width of a state
    N  rows: B, or B * K in search   T  target positions       E  width of one head, or of embeddings
    K  hypotheses of a beam          V  vocabulary             H  attention heads
    L  slots of a history            M  width of the memory    Q  query positions

`states_BSD` is [sentences, source positions, width]; `logits_NV` is [rows, vocabulary]. Masks are
True (or 1) at real tokens. Batch comes first, always; padding is always at the end.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from nmt.models import state as decoder_state


@dataclasses.dataclass(frozen=True)
class Memory:
    """What an encoder hands to any decoder.

    Attributes:
        states_BSM: what attention compares with (its keys).
        mask_BS: bool, True at real tokens.
        pooled_BM: one vector a sentence, for decoders that start from, or only see, that.
        values_BSM: what attention reads; `states_BSM` again for most families (ConvS2S adds the
            embeddings, Gehring et al. 2017, section 3.3).
    """

    states_BSM: torch.Tensor
    mask_BS: torch.Tensor
    pooled_BM: torch.Tensor
    values_BSM: torch.Tensor

    def padded_to(self, length: int) -> "Memory":
        """Returns the memory with padding up to this many source positions."""
        missing = length - self.mask_BS.shape[1]
        return Memory(
            F.pad(self.states_BSM, (0, 0, 0, missing)),
            F.pad(self.mask_BS, (0, missing), value=False),
            self.pooled_BM,
            F.pad(self.values_BSM, (0, 0, 0, missing)),
        )


def masked_mean(states_BSM: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
    """Returns the mean over real positions, [B, M]."""
    weights_BS1 = mask_BS.unsqueeze(-1).to(states_BSM.dtype)
    return (states_BSM * weights_BS1).sum(1) / weights_BS1.sum(1)


class Encoder(nn.Module):
    """Embedded source in, memory out.

    Attributes:
        embedding_size: width E of the source embedding.
        output_size: width M of the memory.
        max_positions: longest source in tokens, or None where there is no limit.
    """

    embedding_size: int
    output_size: int
    max_positions: int | None = None

    def encode(self, embedded_BSE: torch.Tensor, mask_BS: torch.Tensor) -> Memory:
        """Reads the source.

        Args:
            embedded_BSE: rows of the embedding table, unscaled, any value at padding.
            mask_BS: bool, True at real tokens; every sentence has at least one.
        """
        raise TypeError(f"{type(self).__name__} does not define encode")

    def shardable(self) -> Sequence[nn.Module]:
        """Returns the parts whose parameters nothing uses in training but the part's own `forward`.

        With `training.sharding: full` the parameters of one such part are whole at a time; those that
        are in none are whole from the beginning of an update's forward pass to the end of backward.
        """
        return ()


class Decoder(nn.Module):
    """Embedded target prefix and memory in, states for the output layer out.

    A decoder owns no state between calls: `start` makes a state value, `step` takes one and returns
    the next, and stepping an old value again gives the old result again.

    Attributes:
        embedding_size: width E of the target embedding, and of the states handed out.
        max_positions: longest target in tokens, or None where there is no limit.
        attends: whether attention weights over the source exist.
    """

    embedding_size: int
    max_positions: int | None = None
    attends: bool = True

    def decode(
        self, embedded_BTE: torch.Tensor, memory: Memory, *, with_attention: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Teacher forcing: all positions at once.

        Args:
            embedded_BTE: embedded target, shifted right (starts with BOS).
            memory: of the same B sentences.
            with_attention: also return attention weights [B, T, S] (mean over heads, last layer).

        Returns:
            States [B, T, E], and the attention or None.
        """
        raise TypeError(f"{type(self).__name__} does not define decode")

    def shardable(self) -> Sequence[nn.Module]:
        """Returns the parts whose parameters nothing uses in `decode` but the part's own `forward`.

        See `Encoder.shardable`. What `start` and `step` do does not count: a search has whole weights.
        """
        return ()

    def start(self, memory: Memory) -> decoder_state.DecoderState:
        """Returns the state before the first token, a beam of one per sentence.

        All that depends on the source alone is computed here, once.
        """
        raise TypeError(f"{type(self).__name__} does not define start")

    def step(
        self,
        embedded_NE: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Goes one position on, never re-reading the prefix.

        Args:
            embedded_NE: the token at `state.position`, embedded; N = B * K rows.
            state: B sentences with K hypotheses each.
            with_attention: also return attention weights [N, S].

        Returns:
            States [N, E], the attention or None, and the next state.
        """
        raise TypeError(f"{type(self).__name__} does not define step")


class Model(Protocol):
    """A whole model, as training, search, scoring and export see it (an ensemble is one, too).

    What its memory is, is the model's own affair.
    """

    attends: bool
    max_src_positions: int | None
    max_tgt_positions: int | None

    def encode(self, src_BS: torch.Tensor, src_mask_BS: torch.Tensor) -> Any:
        """Returns the memory of a batch of source ids [B, S], padded at the end."""

    def start(self, memory: Any) -> decoder_state.DecoderState:
        """Returns the state before the first target token."""

    def step(
        self,
        tokens_N: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Returns states [N, E] for the next token, attention [N, S] or None, the next state."""

    def logits(self, states: torch.Tensor, shortlist: torch.Tensor | None = None) -> torch.Tensor:
        """Returns scores [..., V] (or [..., len(shortlist)]); log-softmax makes them log-probs."""


class ForcedModel(Model, Protocol):
    """A model that scores targets that are there already, all positions at once, too."""

    def __call__(
        self,
        src_BS: torch.Tensor,
        src_mask_BS: torch.Tensor,
        tgt_in_BT: torch.Tensor,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Teacher forcing: returns states [B, T, E], and attention [B, T, S] or None."""
