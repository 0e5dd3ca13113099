"""Search over a batch, for every model that keeps the contract of `models/base.py`.

All hypotheses of all sentences go a position at a time: the model gives log-probabilities, the rules
of each sentence change them (`rules.py`), and of the continuations some end and K go on
(`picking.py`, `constraints.py`). A sentence whose search is over leaves the batch. Greedy search is a
beam of one.

Each sentence's limits, rules and results depend on itself alone, so that the batch it is in changes
nothing but the rounding of sums.
"""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.models import base
from nmt.models import state as decoder_state
from nmt.search import constraints, coverage, forced, hosting, hypotheses, picking, selection
from nmt.search import rules as search_rules
from nmt.search import settings as search_settings

SpecialIds = hypotheses.SpecialIds
Hypothesis = hypotheses.Hypothesis

# Sentences that are done leave the batch once they are this share of it: leaving costs a copy.
COMPACT_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class _Beam:
    """Open and finished hypotheses of B sentences; K of each, open ones always of one length.

    Open tokens start with BOS. What a batch does not use is None.
    """

    state: decoder_state.DecoderState
    limits: search_settings.Limits
    rules: search_rules.Rules
    finished: hypotheses.Finished
    open_scores_BK: torch.Tensor
    open_tokens_BKT: torch.Tensor
    diversity_B: torch.Tensor | None = None
    covered: coverage.Coverage | None = None
    sampler: picking.Sampler | None = None
    progress: constraints.Progress | None = None

    @property
    def length(self) -> int:
        """Tokens of the open hypotheses, BOS included; those that end next have as many with EOS."""
        return self.open_tokens_BKT.shape[2]

    def keep(self, chosen: torch.Tensor) -> "_Beam":
        """Returns the beam of these sentences only."""
        return _Beam(
            decoder_state.keep(self.state, chosen),
            self.limits.keep(chosen),
            self.rules.keep(chosen),
            self.finished.keep(chosen),
            self.open_scores_BK.index_select(0, chosen),
            self.open_tokens_BKT.index_select(0, chosen),
            None if self.diversity_B is None else self.diversity_B.index_select(0, chosen),
            None if self.covered is None else self.covered.keep(chosen),
            None if self.sampler is None else self.sampler.keep(chosen),
            None if self.progress is None else self.progress.keep(chosen),
        )


@torch.inference_mode()
def search(
    model: base.Model,
    src_BS: torch.Tensor,
    src_mask_BS: torch.Tensor,
    requests: search_settings.SearchSettings | Sequence[search_settings.Request],
    ids: SpecialIds,
) -> list[list[Hypothesis]]:
    """Returns the best finished hypotheses of each sentence, best first, `num_best` at most.

    Args:
        model: in evaluation mode, on the device of the source.
        src_BS: int64 source ids, EOS at the end, padded.
        src_mask_BS: bool, True at real tokens.
        requests: what is asked of each sentence (all of one `SearchSettings.kind`), or settings that
            hold for all of them.
        ids: special target ids.
    """
    if isinstance(requests, search_settings.SearchSettings):
        requests = [search_settings.Request(requests)] * src_BS.shape[0]
    assert len({request.settings.kind for request in requests}) <= 1, "a search is of one kind"
    beam = _start(model, src_BS, src_mask_BS, requests, ids)
    results: list[list[Hypothesis] | None] = [None] * src_BS.shape[0]
    places = list(range(src_BS.shape[0]))  # of the sentences in the beam among the results
    while True:
        beam = _advance(model, beam, ids)
        done: list[bool] = hosting.to_host(_is_done(beam))
        # A sentence that is done stays until it is worth a copy; its result is fixed before that.
        fresh = [i for i, place in enumerate(places) if done[i] and results[place] is None]
        counts = [requests[places[i]].settings.num_best for i in fresh]
        for index, found in zip(fresh, beam.finished.collect(fresh, counts), strict=True):
            results[places[index]] = found
        still_open = [i for i, place in enumerate(places) if results[place] is None]
        if not still_open:
            break
        if len(places) - len(still_open) >= COMPACT_SHARE * len(places):
            beam = beam.keep(hosting.to_device(still_open, src_BS.device))
            places = [places[i] for i in still_open]
    complete = [result or [] for result in results]
    if any(request.settings.repetition_penalty != 1.0 for request in requests):
        # Scores were bent; a log-probability is always the model's.
        return forced.with_log_probabilities(model, src_BS, src_mask_BS, complete, ids)
    return complete


def _start(
    model: base.Model,
    src_BS: torch.Tensor,
    src_mask_BS: torch.Tensor,
    requests: Sequence[search_settings.Request],
    ids: SpecialIds,
) -> _Beam:
    """Returns the beam before the first token: one open hypothesis, the others at -inf."""
    num_sentences, device = src_BS.shape[0], src_BS.device
    beam, is_sampled, num_groups = requests[0].settings.kind
    open_scores_BK = torch.full((num_sentences, beam), float("-inf"), device=device)
    # Every group starts with one hypothesis, and so does every sample.
    open_scores_BK[:, :: 1 if is_sampled else beam // num_groups] = 0.0
    costs = [request.settings.diversity_penalty for request in requests]
    return _Beam(
        state=model.start(model.encode(src_BS, src_mask_BS)),
        limits=search_settings.limits(requests, src_mask_BS.sum(1), model.max_tgt_positions),
        rules=search_rules.rules(requests, device),
        finished=hypotheses.start(num_sentences, beam, num_groups, device),
        open_scores_BK=open_scores_BK,
        open_tokens_BKT=torch.full(
            (num_sentences, beam, 1), ids.bos, dtype=torch.int64, device=device
        ),
        diversity_B=hosting.floats_to_device(costs, device) if num_groups > 1 else None,
        covered=coverage.start(requests, src_mask_BS, beam),
        sampler=picking.sampler(requests, device),
        progress=constraints.start(requests, beam, ids.continuing, device),
    )


def _advance(model: base.Model, beam: _Beam, ids: SpecialIds) -> _Beam:
    """Goes one position on: extends, finishes, keeps the best K open, reorders the state."""
    log_probs_BKV, attention_NS, state = _step(model, beam)
    beam.rules.apply(log_probs_BKV, beam.open_tokens_BKT[:, :, 1:])
    _forbid(log_probs_BKV, beam, ids)
    covered = beam.covered
    if covered is not None:
        assert attention_NS is not None, "coverage wants a model that attends"
        covered = covered.add(attention_NS)
    picked, progress = _pick(log_probs_BKV, beam, ids.eos)

    extra_BK = None
    if covered is not None:
        extra_BK = covered.penalties().gather(1, picked.ended_parents_BK)
    finished = beam.finished.add(
        picked.ended_scores_BK,
        hypotheses.take(beam.open_tokens_BKT, picked.ended_parents_BK),
        beam.limits.penalties(float(beam.length), log_probs_BKV),
        extra_BK,
    )
    parents_BK = picked.open_parents_BK
    prefix_BKT = hypotheses.take(beam.open_tokens_BKT, parents_BK)
    return dataclasses.replace(
        beam,
        state=state if beam.sampler is not None else decoder_state.reorder(state, parents_BK),
        finished=finished,
        open_scores_BK=picked.open_scores_BK,
        open_tokens_BKT=torch.cat([prefix_BKT, picked.open_tokens_BK.unsqueeze(2)], dim=2),
        covered=None if covered is None else covered.reorder(parents_BK),
        progress=progress,
    )


def _step(
    model: base.Model, beam: _Beam
) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
    """Returns log-probabilities [B, K, V] of the next token, the attention [N, S] if wanted, and the state.

    Hypotheses part at the first position: there one step does for all of a sentence.
    """
    num_sentences, size = beam.open_scores_BK.shape
    own = beam.state.num_hypotheses
    states_NE, attention_NS, state = model.step(
        beam.open_tokens_BKT[:, :own, -1].flatten(),
        beam.state,
        with_attention=beam.covered is not None,
    )
    log_probs_NV = selection.log_probabilities(model.logits(states_NE))
    if own < size:
        state = decoder_state.expand(state, size)
        log_probs_NV = log_probs_NV.repeat_interleave(size, dim=0)
        if attention_NS is not None:
            attention_NS = attention_NS.repeat_interleave(size, dim=0)
    return log_probs_NV.view(num_sentences, size, -1), attention_NS, state


def _pick(
    log_probs_BKV: torch.Tensor, beam: _Beam, eos: int
) -> tuple[picking.Picked, constraints.Progress | None]:
    """Returns what ends and what goes on; the log-probabilities are used up."""
    if beam.sampler is not None:
        position = beam.length - 1
        return beam.sampler.pick(log_probs_BKV, beam.open_scores_BK, position, eos), None
    if beam.progress is None and beam.diversity_B is None:
        return picking.pick_best(log_probs_BKV, eos, beam.open_scores_BK), None
    scores_BKV = log_probs_BKV.add_(beam.open_scores_BK.unsqueeze(2))
    if beam.progress is not None:
        return constraints.pick(scores_BKV, beam.progress, eos)
    assert beam.diversity_B is not None, "all other ways were gone above"
    groups = beam.finished.num_groups
    return picking.pick_diverse(scores_BKV, eos, groups, beam.diversity_B), None


def _forbid(scores_BKV: torch.Tensor, beam: _Beam, ids: SpecialIds) -> None:
    """Sets scores to -inf, in place, wherever a sentence may not go on."""
    scores_BKV[:, :, ids.pad] = float("-inf")
    scores_BKV[:, :, ids.bos] = float("-inf")
    limits = beam.limits
    if limits.some_minimum:
        too_short_B1 = (limits.min_lengths_B >= beam.length)[:, None]
        scores_BKV[:, :, ids.eos] = scores_BKV[:, :, ids.eos].masked_fill(
            too_short_B1, float("-inf")
        )
    if beam.length >= limits.never_below:
        must_end_B11 = (limits.max_lengths_B <= beam.length)[:, None, None]
        is_other_V = torch.arange(scores_BKV.shape[2], device=scores_BKV.device) != ids.eos
        scores_BKV.masked_fill_(must_end_B11 & is_other_V, float("-inf"))


def _is_done(beam: _Beam) -> torch.Tensor:
    """Returns whether each sentence's search is over, bool [B]."""
    length, limits = beam.length - 1, beam.limits
    num_sentences = limits.max_lengths_B.shape[0]
    groups_BGK = (num_sentences, beam.finished.num_groups, -1)
    open_BG = beam.open_scores_BK.view(groups_BGK).amax(2)
    worst_BG = beam.finished.worst(limits.num_best_B)
    # Where nothing open can end among the best, waiting is in vain: a log-probability only falls, so it
    # ends with its present sum at best, over the penalty of the longest length, which is the kindest one
    # to a negative number. The penalty of coverage is never above 0.
    kindest_B = limits.penalties(limits.max_lengths_B, worst_BG)
    done_BG = worst_BG >= open_BG / kindest_B[:, None]
    if limits.some_usual:
        # Enough have ended, and the best open one would not be wanted if it ended here. Without the
        # second condition a model that is sure of itself loses its best hypothesis: what ends early
        # is far worse, but among the best K, since all but one are.
        has_enough_BG = beam.finished.num_finished_BG >= limits.num_finished_B[:, None]
        scores_BK = beam.open_scores_BK / limits.penalties(float(length), worst_BG)[:, None]
        if beam.covered is not None:
            scores_BK = scores_BK + beam.covered.penalties()
        if beam.progress is not None:
            scores_BK = scores_BK.masked_fill(~beam.progress.is_met(), float("-inf"))
        best_BG = scores_BK.view(groups_BGK).amax(2)
        usual_BG = has_enough_BG & (worst_BG >= best_BG)
        if limits.some_exact:
            usual_BG &= ~limits.exact_stop_B[:, None]
        done_BG |= usual_BG
    return done_BG.all(1) | (limits.max_lengths_B <= length)
