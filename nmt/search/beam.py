"""Beam search over a batch, for every model that keeps the contract of `models/base.py`.

All hypotheses of all sentences go a position at a time. At each position the 2K best continuations
of a sentence are looked at: those among the first K that end in EOS are finished, the K best of the
others stay open; with 2K there are always K of them. A sentence whose search is over leaves the
batch. Greedy search is a beam of one.

Each sentence's limits, rules and results depend on itself alone, so that the batch it is in changes
nothing but the rounding of sums.
"""

import dataclasses

import torch

from nmt.models import base
from nmt.models import state as decoder_state
from nmt.search import hosting, selection
from nmt.search import settings as search_settings

# Sentences that are done leave the batch once they are this share of it: leaving costs a copy.
COMPACT_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """The target ids that search treats in a way of their own."""

    bos: int
    eos: int
    pad: int


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One finished translation.

    Attributes:
        tokens: ids without BOS and EOS.
        log_probability: sum over the tokens, EOS included.
        score: `log_probability` over the length penalty; higher is better.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


@dataclasses.dataclass(frozen=True)
class _Beam:
    """Open and finished hypotheses of B sentences; K of each, open ones always of one length.

    Open tokens start with BOS, finished ones do, too, and have no EOS. Finished places that are not
    taken yet have a score of -inf.
    """

    state: decoder_state.DecoderState
    max_lengths_B: torch.Tensor
    open_scores_BK: torch.Tensor
    open_tokens_BKT: torch.Tensor
    finished_scores_BK: torch.Tensor
    finished_sums_BK: torch.Tensor
    finished_lengths_BK: torch.Tensor
    finished_tokens_BKT: torch.Tensor
    num_finished_B: torch.Tensor

    def keep(self, chosen: torch.Tensor) -> "_Beam":
        """Returns the beam of these sentences only."""
        changes = {
            field.name: getattr(self, field.name).index_select(0, chosen)
            for field in dataclasses.fields(self)
            if field.name != "state"
        }
        return _Beam(state=decoder_state.keep(self.state, chosen), **changes)


@torch.inference_mode()
def search(
    model: base.Model,
    src_BS: torch.Tensor,
    src_mask_BS: torch.Tensor,
    settings: search_settings.SearchSettings,
    ids: SpecialIds,
) -> list[list[Hypothesis]]:
    """Returns the best finished hypotheses of each sentence, best first, `num_best` at most.

    Args:
        model: in evaluation mode, on the device of the source.
        src_BS: int64 source ids, EOS at the end, padded.
        src_mask_BS: bool, True at real tokens.
        settings: beam, penalties, limits, stopping.
        ids: special target ids.
    """
    beam = _start(model, src_BS, src_mask_BS, settings, ids)
    results: list[list[Hypothesis] | None] = [None] * src_BS.shape[0]
    places = list(range(src_BS.shape[0]))  # of the sentences in the beam among the results
    while True:
        beam = _advance(model, beam, settings, ids)
        done: list[bool] = hosting.to_host(_is_done(beam, settings))
        # A sentence that is done stays until it is worth a copy; its result is fixed before that.
        fresh = [i for i, place in enumerate(places) if done[i] and results[place] is None]
        for index, hypotheses in zip(fresh, _collect(beam, fresh, settings), strict=True):
            results[places[index]] = hypotheses
        still_open = [i for i, place in enumerate(places) if results[place] is None]
        if not still_open:
            return [result or [] for result in results]
        if len(places) - len(still_open) >= COMPACT_SHARE * len(places):
            beam = beam.keep(hosting.to_device(still_open, src_BS.device))
            places = [places[i] for i in still_open]


def _start(
    model: base.Model,
    src_BS: torch.Tensor,
    src_mask_BS: torch.Tensor,
    settings: search_settings.SearchSettings,
    ids: SpecialIds,
) -> _Beam:
    """Returns the beam before the first token: one open hypothesis, the others at -inf."""
    num_sentences, beam = src_BS.shape[0], settings.beam_size
    device = src_BS.device
    state = decoder_state.expand(model.start(model.encode(src_BS, src_mask_BS)), beam)
    closed_BK = torch.full((num_sentences, beam), float("-inf"), device=device)
    open_scores_BK = closed_BK.clone()
    open_scores_BK[:, 0] = 0.0
    bos_BK1 = torch.full((num_sentences, beam, 1), ids.bos, dtype=torch.int64, device=device)
    return _Beam(
        state=state,
        max_lengths_B=search_settings.max_lengths(
            settings, src_mask_BS.sum(1), model.max_tgt_positions
        ),
        open_scores_BK=open_scores_BK,
        open_tokens_BKT=bos_BK1,
        finished_scores_BK=closed_BK,
        finished_sums_BK=closed_BK,
        finished_lengths_BK=torch.zeros_like(bos_BK1[:, :, 0]),
        finished_tokens_BKT=bos_BK1,
        num_finished_B=torch.zeros(num_sentences, dtype=torch.int64, device=device),
    )


def _advance(
    model: base.Model,
    beam: _Beam,
    settings: search_settings.SearchSettings,
    ids: SpecialIds,
) -> _Beam:
    """Goes one position on: extends, finishes, keeps the best K open, reorders the state."""
    size = settings.beam_size
    length = beam.open_tokens_BKT.shape[2]  # of the hypotheses after this step, EOS included
    states_NE, _, state = model.step(beam.open_tokens_BKT[:, :, -1].flatten(), beam.state)
    log_probs_NV = selection.log_probabilities(model.logits(states_NE))
    scores_BKV = log_probs_NV.view(-1, size, log_probs_NV.shape[-1])
    scores_BKV += beam.open_scores_BK.unsqueeze(2)
    scores_BKV = _forbid(scores_BKV, length, beam.max_lengths_B, settings, ids)
    best_BC, parents_BC, tokens_BC = selection.best(scores_BKV, 2 * size)
    ends_BC = tokens_BC == ids.eos

    finished = _finish(beam, best_BC[:, :size], parents_BC[:, :size], ends_BC[:, :size], settings)
    # The best K that go on: finished ones get -inf, and a stable order keeps the rest as it was.
    open_scores_BK, order_BK = best_BC.masked_fill(ends_BC, float("-inf")).topk(size, dim=1)
    parents_BK = parents_BC.gather(1, order_BK)
    new_BK1 = tokens_BC.gather(1, order_BK).unsqueeze(2)
    prefix_BKT = _take(beam.open_tokens_BKT, parents_BK)
    return dataclasses.replace(
        finished,
        state=decoder_state.reorder(state, parents_BK),
        open_scores_BK=open_scores_BK,
        open_tokens_BKT=torch.cat([prefix_BKT, new_BK1], dim=2),
    )


def _forbid(
    scores_BKV: torch.Tensor,
    length: int,
    max_lengths_B: torch.Tensor,
    settings: search_settings.SearchSettings,
    ids: SpecialIds,
) -> torch.Tensor:
    """Returns the scores with -inf wherever a sentence may not go on."""
    scores_BKV[:, :, ids.pad] = float("-inf")
    scores_BKV[:, :, ids.bos] = float("-inf")
    if length <= settings.min_length:
        scores_BKV[:, :, ids.eos] = float("-inf")
    must_end_B11 = (max_lengths_B <= length)[:, None, None]
    is_other_V = torch.arange(scores_BKV.shape[2], device=scores_BKV.device) != ids.eos
    return scores_BKV.masked_fill_(must_end_B11 & is_other_V, float("-inf"))


def _finish(
    beam: _Beam,
    sums_BK: torch.Tensor,
    parents_BK: torch.Tensor,
    ends_BK: torch.Tensor,
    settings: search_settings.SearchSettings,
) -> _Beam:
    """Returns the beam with the hypotheses that end here among its K best finished ones."""
    length = beam.open_tokens_BKT.shape[2]
    ends_BK = ends_BK & sums_BK.isfinite()
    sums_BK = sums_BK.masked_fill(~ends_BK, float("-inf"))
    scores_BK = sums_BK / search_settings.penalty(length, settings.length_penalty)
    all_scores_BX = torch.cat([beam.finished_scores_BK, scores_BK], dim=1)
    all_sums_BX = torch.cat([beam.finished_sums_BK, sums_BK], dim=1)
    lengths_BK = torch.full_like(beam.finished_lengths_BK, length)
    all_lengths_BX = torch.cat([beam.finished_lengths_BK, lengths_BK], dim=1)
    ended_BKT = _take(beam.open_tokens_BKT, parents_BK)
    missing = length - beam.finished_tokens_BKT.shape[2]
    old_BKT = torch.nn.functional.pad(beam.finished_tokens_BKT, (0, missing))
    all_tokens_BXT = torch.cat([old_BKT, ended_BKT], dim=1)
    finished_scores_BK, order_BK = all_scores_BX.topk(settings.beam_size, dim=1)
    return dataclasses.replace(
        beam,
        finished_scores_BK=finished_scores_BK,
        finished_sums_BK=all_sums_BX.gather(1, order_BK),
        finished_lengths_BK=all_lengths_BX.gather(1, order_BK),
        finished_tokens_BKT=_take(all_tokens_BXT, order_BK),
        num_finished_B=beam.num_finished_B + ends_BK.sum(1),
    )


def _take(tokens_BKT: torch.Tensor, chosen_BK: torch.Tensor) -> torch.Tensor:
    """Returns the rows of each sentence in the order chosen, [B, K, T]."""
    return tokens_BKT.gather(1, chosen_BK.unsqueeze(2).expand(-1, -1, tokens_BKT.shape[2]))


def _is_done(beam: _Beam, settings: search_settings.SearchSettings) -> torch.Tensor:
    """Returns whether each sentence's search is over, bool [B]."""
    length = beam.open_tokens_BKT.shape[2] - 1
    at_limit_B = beam.max_lengths_B <= length
    worst_B = beam.finished_scores_BK[:, settings.num_best - 1]
    if not settings.exact_stop:
        # Enough have ended, and the best open one would not be wanted if it ended here. Without the
        # second condition a model that is sure of itself loses its best hypothesis: what ends early
        # is far worse, but among the best K, since all but one are.
        has_enough_B = beam.num_finished_B >= settings.num_finished
        open_B = beam.open_scores_BK[:, 0] / search_settings.penalty(
            length, settings.length_penalty
        )
        return at_limit_B | (has_enough_B & (worst_B >= open_B))
    # A log-probability only falls, so an open hypothesis ends with its present sum at best, over
    # the penalty of the longest length, which is the kindest one to a negative number.
    kindest_B = search_settings.penalty(
        beam.max_lengths_B.to(beam.open_scores_BK.dtype), settings.length_penalty
    )
    bound_B = beam.open_scores_BK[:, 0] / kindest_B
    return at_limit_B | (worst_B >= bound_B)


def _collect(
    beam: _Beam, chosen: list[int], settings: search_settings.SearchSettings
) -> list[list[Hypothesis]]:
    """Returns the finished hypotheses of these sentences, best first."""
    if not chosen:
        return []
    rows = hosting.to_device(chosen, beam.max_lengths_B.device)
    count = settings.num_best
    scores = hosting.to_host(beam.finished_scores_BK.index_select(0, rows)[:, :count])
    sums = hosting.to_host(beam.finished_sums_BK.index_select(0, rows)[:, :count])
    lengths = hosting.to_host(beam.finished_lengths_BK.index_select(0, rows)[:, :count])
    tokens = hosting.to_host(beam.finished_tokens_BKT.index_select(0, rows)[:, :count])
    return [
        [
            Hypothesis(tuple(tokens[i][k][1 : lengths[i][k]]), sums[i][k], scores[i][k])
            for k in range(count)
            if scores[i][k] > float("-inf")
        ]
        for i in range(len(chosen))
    ]
