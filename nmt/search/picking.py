"""Which continuations end and which go on: the beam's way, in groups, and by drawing."""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.search import hosting, selection
from nmt.search import settings as search_settings


@dataclasses.dataclass(frozen=True)
class Picked:
    """What becomes of K hypotheses after one more token.

    Attributes:
        ended_scores_BK: sums of log-probabilities of those that end here; -inf at other places.
        ended_parents_BK: the hypotheses that they continue.
        open_scores_BK: sums of those that go on; -inf where there are fewer than K.
        open_parents_BK: the hypotheses that they continue.
        open_tokens_BK: their new tokens.
    """

    ended_scores_BK: torch.Tensor
    ended_parents_BK: torch.Tensor
    open_scores_BK: torch.Tensor
    open_parents_BK: torch.Tensor
    open_tokens_BK: torch.Tensor


def pick_best(scores_BKV: torch.Tensor, eos: int, before_BK: torch.Tensor | None = None) -> Picked:
    """Returns what beam search goes on with.

    Of the 2K best continuations those among the first K that end in EOS are finished, and the K best
    of the others stay open; with 2K there are always K of them.

    Args:
        scores_BKV: log-probability of each next token, or the sum of it and of those before.
        eos: id of EOS.
        before_BK: the sum of those before, where it is no part of the scores.
    """
    size = scores_BKV.shape[1]
    best_BC, parents_BC, tokens_BC = selection.best(scores_BKV, 2 * size, before_BK)
    ends_BC = tokens_BC == eos
    # Finished ones get -inf, and a stable order keeps the rest as it was.
    open_scores_BK, order_BK = best_BC.masked_fill(ends_BC, float("-inf")).topk(size, dim=1)
    return Picked(
        best_BC[:, :size].masked_fill(~ends_BC[:, :size], float("-inf")),
        parents_BC[:, :size],
        open_scores_BK,
        parents_BC.gather(1, order_BK),
        tokens_BC.gather(1, order_BK),
    )


def pick_diverse(
    scores_BKV: torch.Tensor, eos: int, num_groups: int, penalties_B: torch.Tensor
) -> Picked:
    """Returns what diverse beam search goes on with.

    The groups choose in turn, each as a beam of its own. A token costs more for every hypothesis of
    an earlier group that has just taken it (Hamming diversity). What it costs decides what is
    chosen, but is no part of the score.

    Source: Vijayakumar et al. 2016, algorithm 1 and section 5.1. Deviation: there the cost stays in
    the score.

    Args:
        scores_BKV: sum of log-probabilities of each continuation; K / G neighbours are a group.
        eos: id of EOS.
        num_groups: G, a divisor of K.
        penalties_B: the cost for one hypothesis.
    """
    num_sentences, _, num_tokens = scores_BKV.shape
    costs_BV = scores_BKV.new_zeros((num_sentences, num_tokens))
    parts: list[Picked] = []
    offset = 0
    for group_BGV in scores_BKV.chunk(num_groups, dim=1):
        part = pick_best(group_BGV - costs_BV[:, None], eos)
        taken_B = penalties_B.to(costs_BV.dtype)[:, None].expand_as(part.open_tokens_BK)
        part = dataclasses.replace(
            part,
            open_scores_BK=part.open_scores_BK + costs_BV.gather(1, part.open_tokens_BK),
            ended_parents_BK=part.ended_parents_BK + offset,
            open_parents_BK=part.open_parents_BK + offset,
        )
        parts.append(part)
        is_open_BG = part.open_scores_BK > float("-inf")
        costs_BV = costs_BV.scatter_add(1, part.open_tokens_BK, taken_B * is_open_BG)
        offset += group_BGV.shape[1]
    return Picked(
        *(
            torch.cat([getattr(part, field.name) for part in parts], dim=1)
            for field in dataclasses.fields(Picked)
        )
    )


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws tokens with random numbers that depend on nothing but where they are used.

    The number for a token is a hash of the seed, the sentence's key, the number of the sample and
    the position. So a sentence gets the same samples in any batch and any order, and there is no
    generator whose state its neighbours could change.

    Attributes:
        streams_BK: a hash of seed, key and number of the sample.
        temperatures_B: what log-probabilities are divided by.
        top_k_B: draw from so many tokens; 0 is all.
        top_p_B: draw from the tokens that have this share together.
        largest_k: the largest top-k; 0 if no sentence has one.
        some_p: some sentence has a top-p.
    """

    streams_BK: torch.Tensor
    temperatures_B: torch.Tensor
    top_k_B: torch.Tensor
    top_p_B: torch.Tensor
    largest_k: int
    some_p: bool

    def keep(self, chosen: torch.Tensor) -> "Sampler":
        """Returns the sampler of these sentences only."""
        changes = {
            name: getattr(self, name).index_select(0, chosen)
            for name in ("streams_BK", "temperatures_B", "top_k_B", "top_p_B")
        }
        return dataclasses.replace(self, **changes)

    def pick(
        self, log_probs_BKV: torch.Tensor, open_scores_BK: torch.Tensor, position: int, eos: int
    ) -> Picked:
        """Returns each hypothesis with a token drawn; hypotheses keep their places.

        Args:
            log_probs_BKV: of the next token, -inf where it is forbidden.
            open_scores_BK: sums so far.
            position: target positions done so far.
            eos: id of EOS.
        """
        tokens_BK = self._draw(log_probs_BKV, position)
        drawn_BK = log_probs_BKV.gather(2, tokens_BK.unsqueeze(2)).squeeze(2)
        scores_BK = open_scores_BK + drawn_BK
        places_BK = torch.arange(scores_BK.shape[1], device=scores_BK.device).expand_as(tokens_BK)
        ends_BK = tokens_BK == eos
        return Picked(
            scores_BK.masked_fill(~ends_BK, float("-inf")),
            places_BK,
            scores_BK.masked_fill(ends_BK, float("-inf")),
            places_BK,
            tokens_BK,
        )

    def _draw(self, log_probs_BKV: torch.Tensor, position: int) -> torch.Tensor:
        """Returns tokens [B, K], by the inverse of the distribution function.

        The order of the vocabulary is kept, so that the rules of other sentences change nothing.
        """
        scaled_BKV = log_probs_BKV.to(self.temperatures_B.dtype)
        scaled_BKV = scaled_BKV / self.temperatures_B[:, None, None]
        if self.largest_k:
            scaled_BKV = self._cut_to_top_k(scaled_BKV)
        probs_BKV = torch.softmax(scaled_BKV, dim=-1)
        if self.some_p:
            probs_BKV = self._cut_to_top_p(probs_BKV)
        sums_BKV = probs_BKV.cumsum(-1)
        # A token that has no probability never ends the first sum above the number.
        numbers_BK1 = _uniform(self.streams_BK, position, sums_BKV.dtype).unsqueeze(2)
        tokens_BK1 = torch.searchsorted(sums_BKV, numbers_BK1 * sums_BKV[:, :, -1:], right=True)
        return tokens_BK1.squeeze(2).clamp(max=log_probs_BKV.shape[2] - 1)

    def _cut_to_top_k(self, scaled_BKV: torch.Tensor) -> torch.Tensor:
        count = min(self.largest_k, scaled_BKV.shape[2])
        best_BKX = scaled_BKV.topk(count, dim=-1).values
        last_BK1 = (self.top_k_B.clamp(1, count) - 1)[:, None, None].expand(
            -1, scaled_BKV.shape[1], -1
        )
        worst_BK1 = best_BKX.gather(2, last_BK1)
        has_rule_B11 = (self.top_k_B > 0)[:, None, None]
        return scaled_BKV.masked_fill(has_rule_B11 & (scaled_BKV < worst_BK1), float("-inf"))

    def _cut_to_top_p(self, probs_BKV: torch.Tensor) -> torch.Tensor:
        """Keeps the likeliest tokens up to the one that completes the share (Holtzman et al. 2020)."""
        sorted_BKV = probs_BKV.sort(dim=-1, descending=True).values
        before_BKV = sorted_BKV.cumsum(-1) - sorted_BKV
        is_in_BKV = before_BKV < self.top_p_B[:, None, None]
        worst_BK1 = sorted_BKV.masked_fill(~is_in_BKV, float("inf")).amin(-1, keepdim=True)
        has_rule_B11 = (self.top_p_B < 1)[:, None, None]
        return probs_BKV.masked_fill(has_rule_B11 & (probs_BKV < worst_BK1), 0.0)


def sampler(requests: Sequence[search_settings.Request], device: torch.device) -> Sampler | None:
    """Returns what draws for these sentences, or None if they are searched."""
    settings = [request.settings for request in requests]
    if not settings or not settings[0].sample:
        return None
    seeds_B = hosting.to_device([one.seed for one in settings], device)
    keys_B = hosting.to_device([request.sample_key for request in requests], device)
    samples_K = torch.arange(settings[0].num_best, device=device)
    streams_BK = _mixed((_mixed(seeds_B) ^ keys_B)[:, None]) + samples_K
    top_k = [one.top_k for one in settings]
    top_p = [one.top_p for one in settings]
    return Sampler(
        _mixed(streams_BK),
        hosting.floats_to_device([one.temperature for one in settings], device),
        hosting.to_device(top_k, device),
        hosting.floats_to_device(top_p, device),
        largest_k=max(top_k),
        some_p=any(share < 1 for share in top_p),
    )


def _signed(number: int) -> int:
    """Returns 64 bits as torch has them, which knows no unsigned arithmetic."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _shifted(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns int64 numbers shifted to the right with zeros coming in."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Returns hashes of int64 numbers.

    Source: Steele et al. 2014, figure 17 (SplitMix64); products wrap around.
    """
    numbers = numbers + _signed(0x9E3779B97F4A7C15)
    numbers = (numbers ^ _shifted(numbers, 30)) * _signed(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ _shifted(numbers, 27)) * _signed(0x94D049BB133111EB)
    return numbers ^ _shifted(numbers, 31)


def _uniform(streams: torch.Tensor, position: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns numbers in [0, 1) for a position, far enough below 1 to stay there in products."""
    bits = 52 if dtype == torch.float64 else 23
    return _shifted(_mixed(streams + position), 64 - bits).to(dtype) * 2.0**-bits
