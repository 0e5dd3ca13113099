"""A model over part of its target vocabulary, for the sentences of one batch.

Each sentence has a set of tokens that it may be translated with; all others have a probability of zero,
before probabilities are normalised. A set is numbered by itself, and a sentence's hypotheses are
multiplied with the weights of its own tokens alone: everything over the vocabulary costs a fraction,
and what else is in the batch changes nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from nmt.models import packed, seq2seq
from nmt.models import state as decoder_state
from nmt.search import forced, hypotheses
from nmt.search import settings as search_settings

# Sets are filled up to whole vectors.
MULTIPLE = 16
# What is in the state of each sentence besides the model's own.
IDS, WEIGHTS, MASK = "narrowed.ids", "narrowed.weights", "narrowed.mask"


class Narrowed:
    """Keeps the contract of `base.Model`, with the place in a sentence's set wherever a target id stands.

    A: tokens of the largest set.

    Attributes:
        ids_BA: int64 target ids of each set, ascending, then zeros. The special ones are the first ids of a
            vocabulary and in every set, so they are their own places.
    """

    def __init__(self, model: seq2seq.Seq2Seq, allowed_BV: torch.Tensor) -> None:
        """Takes a model and what each sentence of the batch may use.

        Args:
            model: in evaluation mode.
            allowed_BV: bool; the first ids of the vocabulary, up to the last special one, are True.
        """
        self._model = model
        self.attends = model.attends
        self.max_src_positions = model.max_src_positions
        self.max_tgt_positions = model.max_tgt_positions
        self.ids_BA, self._is_missing_BA = _numbered(allowed_BV)

    def encode(self, src_BS: torch.Tensor, src_mask_BS: torch.Tensor) -> Any:
        """Returns the memory of the sentences that the model was narrowed for."""
        return self._model.encode(src_BS, src_mask_BS)

    def start(self, memory: Any) -> decoder_state.DecoderState:
        """Returns the state before the first target token, with each sentence's set in it."""
        state = self._model.start(memory)
        own = {
            IDS: self.ids_BA,
            WEIGHTS: packed.rows(self._model.output, self.ids_BA),
            MASK: self._is_missing_BA,
        }
        return dataclasses.replace(state, sentence={**state.sentence, **own})

    def step(
        self,
        tokens_N: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Returns scores [N, A] in place of states, the attention, and the next state."""
        ids_BA, weights_BAE = state.sentence[IDS], state.sentence[WEIGHTS]
        ids_BK = ids_BA.gather(1, tokens_N.view(len(ids_BA), -1))
        states_NE, attention_NS, next_state = self._model.step(
            ids_BK.flatten(), state, with_attention=with_attention
        )
        states_BKE = states_NE.view(*ids_BK.shape, -1).to(weights_BAE.dtype)
        scores_BKA = torch.bmm(states_BKE, weights_BAE.transpose(1, 2))
        scores_BKA.masked_fill_(state.sentence[MASK].unsqueeze(1), float("-inf"))
        return scores_BKA.flatten(0, 1), attention_NS, next_state

    def logits(self, states: torch.Tensor, shortlist: torch.Tensor | None = None) -> torch.Tensor:
        """Returns what `step` returned, [..., A]."""
        return states if shortlist is None else states[..., shortlist]

    def original(self, sentence: int, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the target ids that stand at these places of a sentence's set."""
        ids: list[int] = self.ids_BA[sentence, list(tokens)].tolist()
        return tuple(ids)


def rescored(
    model: seq2seq.Seq2Seq,
    src_BS: torch.Tensor,
    src_mask_BS: torch.Tensor,
    requests: Sequence[search_settings.Request],
    found: Sequence[Sequence[hypotheses.Hypothesis]],
    ids: hypotheses.SpecialIds,
) -> list[list[hypotheses.Hypothesis]]:
    """Returns hypotheses with what the whole vocabulary gives them, best first.

    Among fewer tokens each one is more probable; so a narrowed search overrates what it finds.

    Args:
        model: the whole one.
        src_BS: int64 source ids, EOS at the end, padded.
        src_mask_BS: bool, True at real tokens.
        requests: what was searched for.
        found: in the ids of the whole vocabulary.
        ids: special target ids.
    """
    whole = forced.with_log_probabilities(
        model, src_BS, src_mask_BS, [list(own) for own in found], ids
    )
    return [
        _ranked(request.settings, narrow, own)
        for request, narrow, own in zip(requests, found, whole, strict=True)
    ]


def _ranked(
    settings: search_settings.SearchSettings,
    narrow: Sequence[hypotheses.Hypothesis],
    whole: Sequence[hypotheses.Hypothesis],
) -> list[hypotheses.Hypothesis]:
    """Returns the hypotheses of one sentence, whose scores change as their log-probabilities did."""
    ranked = []
    for before, after in zip(narrow, whole, strict=True):
        penalty = search_settings.penalty(len(after.tokens) + 1, settings.length_penalty)
        change = (after.log_probability - before.log_probability) / float(penalty)
        ranked.append(dataclasses.replace(after, score=before.score + change))
    return sorted(ranked, key=lambda one: -one.score)


def _numbered(allowed_BV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the ids that are allowed, [B, A], and where there are none any more, bool [B, A]."""
    counts_B = allowed_BV.sum(1)
    size = -(-int(counts_B.max()) // MULTIPLE) * MULTIPLE
    places_A = torch.arange(size, device=allowed_BV.device)
    is_missing_BA = places_A >= counts_B[:, None]
    ids_BA = torch.zeros_like(is_missing_BA, dtype=torch.int64)
    # Both run through the sentences in turn, and through the ids of each upwards.
    ids_BA[~is_missing_BA] = allowed_BV.nonzero()[:, 1]
    return ids_BA, is_missing_BA
