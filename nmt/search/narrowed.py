"""A model over part of its target vocabulary, for the sentences of one batch.

Each sentence has a set of tokens that it may be translated with. Search works with the union of a
batch's sets, numbered anew, so that everything over the vocabulary costs less; and each sentence sees
its own set alone: all other tokens have a probability of zero, before probabilities are normalised.
So what else is in the batch changes nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from nmt.models import packed, seq2seq
from nmt.models import state as decoder_state
from nmt.search import forced, hypotheses
from nmt.search import settings as search_settings

# The union is filled up to whole vectors, with tokens that no sentence of the batch may use.
MULTIPLE = 16
MASK = "narrowed.mask"


class Narrowed:
    """Keeps the contract of `base.Model`, with the place in `ids_U` wherever a target id stands.

    U: tokens of the union.

    Attributes:
        ids_U: int64 target ids, ascending. The special ones are the first ids of a vocabulary and in
            every set, so they are their own places.
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
        self.ids_U = _filled_up(allowed_BV.any(0))
        self._layer = packed.narrowed(model.output, self.ids_U)
        self._is_forbidden_BU = ~allowed_BV[:, self.ids_U]

    def encode(self, src_BS: torch.Tensor, src_mask_BS: torch.Tensor) -> Any:
        """Returns the memory of the sentences that the model was narrowed for."""
        return self._model.encode(src_BS, src_mask_BS)

    def start(self, memory: Any) -> decoder_state.DecoderState:
        """Returns the state before the first target token, with each sentence's set in it."""
        state = self._model.start(memory)
        return dataclasses.replace(state, sentence={**state.sentence, MASK: self._is_forbidden_BU})

    def step(
        self,
        tokens_N: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Returns scores [N, U] in place of states, the attention, and the next state."""
        states_NE, attention_NS, next_state = self._model.step(
            self.ids_U[tokens_N], state, with_attention=with_attention
        )
        scores_NU: torch.Tensor = self._layer(states_NE)
        is_forbidden_BU = state.sentence[MASK]
        scores_BKU = scores_NU.view(len(is_forbidden_BU), -1, scores_NU.shape[1])
        scores_BKU.masked_fill_(is_forbidden_BU.unsqueeze(1), float("-inf"))
        return scores_NU, attention_NS, next_state

    def logits(self, states: torch.Tensor, shortlist: torch.Tensor | None = None) -> torch.Tensor:
        """Returns what `step` returned, [..., U]."""
        return states if shortlist is None else states[..., shortlist]

    def original(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the target ids that stand at these places."""
        ids: list[int] = self.ids_U.tolist()
        return tuple(ids[token] for token in tokens)


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
    # Samples stand in the order in which they were drawn.
    return ranked if settings.sample else sorted(ranked, key=lambda one: -one.score)


def _filled_up(is_used_V: torch.Tensor) -> torch.Tensor:
    """Returns the ids that are used, and some that are not, up to a multiple of `MULTIPLE`."""
    missing = -int(is_used_V.sum()) % MULTIPLE
    spare = (~is_used_V).nonzero().flatten()[:missing]
    return torch.cat([is_used_V.nonzero().flatten(), spare]).sort().values
