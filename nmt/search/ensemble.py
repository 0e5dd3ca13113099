"""Several models that search as one: the weighted mean of their probabilities (Sutskever et al. 2014)."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from nmt.models import base
from nmt.models import state as decoder_state
from nmt.search import selection


class Ensemble:
    """Keeps the contract of `base.Model`; the models have the vocabularies in common.

    The states of the models travel as one, each entry's name behind the number of its model, so that
    search reorders and keeps them as it does any other.
    """

    def __init__(
        self, models: Sequence[base.ForcedModel], weights: Sequence[float] | None = None
    ) -> None:
        """Takes the models and how much each counts.

        Args:
            models: at least two, on one device and in evaluation mode.
            weights: one a model, above 0, of which the shares in their sum count; None for equal ones.
        """
        self._models = tuple(models)
        weights = [1.0] * len(models) if weights is None else weights
        assert len(weights) == len(models), "each model has a weight"
        self._shares = [weight / math.fsum(weights) for weight in weights]
        self.attends = all(model.attends for model in models)
        self.max_src_positions = _smallest([model.max_src_positions for model in models])
        self.max_tgt_positions = _smallest([model.max_tgt_positions for model in models])

    def __call__(
        self,
        src_BS: torch.Tensor,
        src_mask_BS: torch.Tensor,
        tgt_in_BT: torch.Tensor,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the log of the mean probabilities [B, T, V] in place of states, and the attention."""
        log_probs, attentions = [], []
        for model in self._models:
            states, attention_BTS = model(
                src_BS, src_mask_BS, tgt_in_BT, with_attention=with_attention
            )
            log_probs.append(selection.log_probabilities(model.logits(states)))
            attentions.append(attention_BTS)
        return self._mixed(log_probs), self._attended(attentions)

    def encode(self, src_BS: torch.Tensor, src_mask_BS: torch.Tensor) -> tuple[object, ...]:
        """Returns the memory of each model."""
        return tuple(model.encode(src_BS, src_mask_BS) for model in self._models)

    def start(self, memory: tuple[object, ...]) -> decoder_state.DecoderState:
        """Returns the states of all models as one."""
        states = [model.start(part) for model, part in zip(self._models, memory, strict=True)]
        return self._join(states)

    def step(
        self,
        tokens_N: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Returns the log of the mean probabilities [N, V] in place of states, and the mean attention."""
        log_probs, attentions, states = [], [], []
        for index, model in enumerate(self._models):
            outputs, attention_NS, next_state = model.step(
                tokens_N, self._part(state, index), with_attention=with_attention
            )
            log_probs.append(selection.log_probabilities(model.logits(outputs)))
            attentions.append(attention_NS)
            states.append(next_state)
        return self._mixed(log_probs), self._attended(attentions), self._join(states)

    def logits(self, states: torch.Tensor, shortlist: torch.Tensor | None = None) -> torch.Tensor:
        """Returns what came as states: normalised already, so log-softmax changes nothing."""
        return states if shortlist is None else states[..., shortlist]

    def _mixed(self, log_probs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the log of the weighted mean of probabilities [..., V]."""
        parts = [
            part + math.log(share) for part, share in zip(log_probs, self._shares, strict=True)
        ]
        return torch.stack(parts).logsumexp(0)

    def _attended(self, attentions: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """Returns the weighted mean of attention weights, if all models have them."""
        present = [
            tensor * share
            for tensor, share in zip(attentions, self._shares, strict=True)
            if tensor is not None
        ]
        return torch.stack(present).sum(0) if len(present) == len(attentions) else None

    @staticmethod
    def _join(states: Sequence[decoder_state.DecoderState]) -> decoder_state.DecoderState:
        """Returns one state of many; they are at one position and see the same slots."""
        masks = [state.visible_BKL for state in states if state.visible_BKL is not None]
        return decoder_state.DecoderState(
            position=states[0].position,
            num_hypotheses=states[0].num_hypotheses,
            sentence=_joined([state.sentence for state in states]),
            hypothesis=_joined([state.hypothesis for state in states]),
            history=_joined([state.history for state in states]),
            visible_BKL=masks[0] if masks else None,
            fixed=_joined([state.fixed for state in states]),
            num_shared=states[0].num_shared,
        )

    @staticmethod
    def _part(state: decoder_state.DecoderState, index: int) -> decoder_state.DecoderState:
        """Returns the state of one model."""
        history = _parted(state.history, index)
        return decoder_state.DecoderState(
            position=state.position,
            num_hypotheses=state.num_hypotheses,
            sentence=_parted(state.sentence, index),
            hypothesis=_parted(state.hypothesis, index),
            history=history,
            visible_BKL=state.visible_BKL if history else None,
            fixed=_parted(state.fixed, index),
            num_shared=state.num_shared,
        )


EntryT = TypeVar("EntryT")


def _joined(parts: Sequence[Mapping[str, EntryT]]) -> dict[str, EntryT]:
    return {
        f"{index}/{name}": entry
        for index, entries in enumerate(parts)
        for name, entry in entries.items()
    }


def _parted(entries: Mapping[str, EntryT], index: int) -> dict[str, EntryT]:
    prefix = f"{index}/"
    return {
        name.removeprefix(prefix): entry
        for name, entry in entries.items()
        if name.startswith(prefix)
    }


def _smallest(limits: Sequence[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
