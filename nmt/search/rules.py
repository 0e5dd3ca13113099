"""What a sentence may not say: rules that change the scores of the next tokens.

A rule is made for a whole batch, works on all hypotheses at once, and depends on nothing but the
tokens so far, so that reordering hypotheses does not concern it. One that no sentence asks for is
not there. The prefix comes last and wins: what is forced may repeat itself, or be avoided later on.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch

from nmt.search import hosting
from nmt.search import settings as search_settings

# What fills up phrases in front, and hypotheses that are shorter than a phrase; no ids.
ANY_TOKEN, NO_TOKEN = -1, -2


class Rule(Protocol):
    """Changes log-probabilities in place."""

    def apply(self, scores_BKV: torch.Tensor, tokens_BKT: torch.Tensor) -> None:
        """Forbids (-inf) or makes unlikely what the rule is against.

        Args:
            scores_BKV: log-probabilities of the next token.
            tokens_BKT: open hypotheses, without BOS.
        """

    def keep(self, chosen: torch.Tensor) -> "Rule":
        """Returns the rule for these sentences only."""


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Makes tokens that are there already less likely.

    Source: Keskar et al. 2019, section 4.1; on log-probabilities, which are negative, the penalty
    multiplies.
    """

    penalties_B: torch.Tensor

    def apply(self, scores_BKV: torch.Tensor, tokens_BKT: torch.Tensor) -> None:
        """Multiplies the log-probabilities of tokens that have come; see `Rule.apply`."""
        factors_B11 = self.penalties_B.to(scores_BKV.dtype)[:, None, None]
        # A token that came twice gets the same value twice.
        scores_BKV.scatter_(2, tokens_BKT, scores_BKV.gather(2, tokens_BKT) * factors_B11)

    def keep(self, chosen: torch.Tensor) -> "RepetitionPenalty":
        """Returns the rule for these sentences only."""
        return RepetitionPenalty(self.penalties_B.index_select(0, chosen))


@dataclasses.dataclass(frozen=True)
class NoRepeatNgram:
    """Forbids the token that would complete a sequence that has come before.

    Attributes:
        sizes_B: length of the sequence; 0 allows everything.
        sizes: those that occur among them.
    """

    sizes_B: torch.Tensor
    sizes: tuple[int, ...]

    def apply(self, scores_BKV: torch.Tensor, tokens_BKT: torch.Tensor) -> None:
        """See `Rule.apply`. Example of size 2: after `a b a`, `b` is forbidden."""
        length = tokens_BKT.shape[2]
        for size in self.sizes:
            num_places = length - size + 1
            if num_places < 1:
                continue
            is_same_BKP = (self.sizes_B == size)[:, None, None].expand(
                -1, tokens_BKT.shape[1], num_places
            )
            for offset in range(size - 1):
                begin = length - size + 1 + offset
                last_BK1 = tokens_BKT[:, :, begin : begin + 1]
                is_same_BKP = is_same_BKP & (
                    tokens_BKT[:, :, offset : offset + num_places] == last_BK1
                )
            _forbid_where(scores_BKV, tokens_BKT[:, :, size - 1 :], is_same_BKP)

    def keep(self, chosen: torch.Tensor) -> "NoRepeatNgram":
        """Returns the rule for these sentences only."""
        return NoRepeatNgram(self.sizes_B.index_select(0, chosen), self.sizes)


@dataclasses.dataclass(frozen=True)
class Avoid:
    """Forbids the last token of a phrase where the tokens before it have come.

    Attributes:
        begins_BPL: all but the last token of each phrase, `ANY_TOKEN` in front.
        lasts_BP: the last tokens; `ANY_TOKEN` where a sentence has fewer phrases.
    """

    begins_BPL: torch.Tensor
    lasts_BP: torch.Tensor

    def apply(self, scores_BKV: torch.Tensor, tokens_BKT: torch.Tensor) -> None:
        """See `Rule.apply`."""
        _, beam, length = tokens_BKT.shape
        width = self.begins_BPL.shape[2]
        is_there_BKP = (self.lasts_BP != ANY_TOKEN)[:, None].expand(-1, beam, -1)
        if width:
            recent_BKL = torch.nn.functional.pad(tokens_BKT, (width, 0), value=NO_TOKEN)
            recent_BK1L = recent_BKL[:, :, None, length:]
            begins_B1PL = self.begins_BPL[:, None]
            is_begun_BKPL = (recent_BK1L == begins_B1PL) | (begins_B1PL == ANY_TOKEN)
            is_there_BKP = is_there_BKP & is_begun_BKPL.all(3)
        lasts_BKP = self.lasts_BP.clamp(min=0)[:, None].expand(-1, beam, -1)
        _forbid_where(scores_BKV, lasts_BKP, is_there_BKP)

    def keep(self, chosen: torch.Tensor) -> "Avoid":
        """Returns the rule for these sentences only."""
        return Avoid(self.begins_BPL.index_select(0, chosen), self.lasts_BP.index_select(0, chosen))


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Forces the first tokens.

    Attributes:
        tokens_BP: the prefix of each sentence, `ANY_TOKEN` behind it.
    """

    tokens_BP: torch.Tensor

    def read(self, scores_BKV: torch.Tensor, position: int) -> torch.Tensor | None:
        """Returns the scores [B, K, 1] of what will be forced, before other rules change them."""
        if position >= self.tokens_BP.shape[1]:
            return None
        return scores_BKV.gather(2, self._forced(scores_BKV, position))

    def force(
        self, scores_BKV: torch.Tensor, position: int, forced_BK1: torch.Tensor | None
    ) -> None:
        """Forbids all but what is forced at this position.

        Args:
            scores_BKV: log-probabilities, changed in place.
            position: target positions done so far.
            forced_BK1: what `read` returned.
        """
        if forced_BK1 is None:
            return
        is_forced_B11 = (self.tokens_BP[:, position] != ANY_TOKEN)[:, None, None]
        tokens_BK1 = self._forced(scores_BKV, position)
        old_BK1 = scores_BKV.gather(2, tokens_BK1)
        scores_BKV.masked_fill_(is_forced_B11, float("-inf"))
        scores_BKV.scatter_(2, tokens_BK1, torch.where(is_forced_B11, forced_BK1, old_BK1))

    def keep(self, chosen: torch.Tensor) -> "Prefix":
        """Returns the prefixes of these sentences only."""
        return Prefix(self.tokens_BP.index_select(0, chosen))

    def _forced(self, scores_BKV: torch.Tensor, position: int) -> torch.Tensor:
        tokens_B11 = self.tokens_BP[:, position, None, None].clamp(min=0)
        return tokens_B11.expand(-1, scores_BKV.shape[1], -1)


@dataclasses.dataclass(frozen=True)
class Rules:
    """All rules of a batch, in the order in which they are applied."""

    rules: tuple[Rule, ...] = ()
    prefix: Prefix | None = None

    def apply(self, scores_BKV: torch.Tensor, tokens_BKT: torch.Tensor) -> None:
        """Changes log-probabilities in place.

        Args:
            scores_BKV: of the next token.
            tokens_BKT: open hypotheses, without BOS.
        """
        position = tokens_BKT.shape[2]
        forced_BK1 = None
        if self.prefix is not None:
            forced_BK1 = self.prefix.read(scores_BKV, position)
        for rule in self.rules:
            rule.apply(scores_BKV, tokens_BKT)
        if self.prefix is not None:
            self.prefix.force(scores_BKV, position, forced_BK1)

    def keep(self, chosen: torch.Tensor) -> "Rules":
        """Returns the rules of these sentences only."""
        prefix = None if self.prefix is None else self.prefix.keep(chosen)
        return Rules(tuple(rule.keep(chosen) for rule in self.rules), prefix)


def rules(requests: Sequence[search_settings.Request], device: torch.device) -> Rules:
    """Returns the rules that these sentences ask for, as few as there are."""
    found: list[Rule] = []
    factors = [request.settings.repetition_penalty for request in requests]
    if any(factor != 1.0 for factor in factors):
        found.append(RepetitionPenalty(hosting.floats_to_device(factors, device)))
    sizes = [request.settings.no_repeat_ngram_size for request in requests]
    if any(sizes):
        occurring = tuple(sorted(set(sizes) - {0}))
        found.append(NoRepeatNgram(hosting.to_device(sizes, device), occurring))
    if any(request.avoid for request in requests):
        found.append(_avoid([request.avoid for request in requests], device))
    prefix = None
    if any(request.prefix for request in requests):
        longest = max(len(request.prefix) for request in requests)
        rows = [_filled(request.prefix, longest, in_front=False) for request in requests]
        prefix = Prefix(hosting.to_device(rows, device))
    return Rules(tuple(found), prefix)


def num_entries(requests: Sequence[search_settings.Request]) -> int:
    """Returns how many comparisons a step makes for phrases to be avoided."""
    phrases = [request.avoid for request in requests]
    most = max(map(len, phrases))
    width = max((len(phrase) for own in phrases for phrase in own), default=0)
    return len(phrases) * most * width * requests[0].settings.num_hypotheses


def _avoid(phrases: Sequence[Sequence[search_settings.Phrase]], device: torch.device) -> Avoid:
    most = max(len(own) for own in phrases)
    width = max(len(phrase) for own in phrases for phrase in own) - 1
    begins = [
        [_filled(phrase[:-1], width, in_front=True) for phrase in own]
        + [[ANY_TOKEN] * width] * (most - len(own))
        for own in phrases
    ]
    lasts = [_filled([phrase[-1] for phrase in own], most, in_front=False) for own in phrases]
    return Avoid(hosting.to_device(begins, device), hosting.to_device(lasts, device))


def _filled(tokens: Sequence[int], length: int, *, in_front: bool) -> list[int]:
    filling = [ANY_TOKEN] * (length - len(tokens))
    return [*filling, *tokens] if in_front else [*tokens, *filling]


def _forbid_where(
    scores_BKV: torch.Tensor, tokens_BKX: torch.Tensor, is_forbidden_BKX: torch.Tensor
) -> None:
    """Sets tokens to -inf in place, where they are forbidden."""
    values_BKX = scores_BKV.new_zeros(()).expand(tokens_BKX.shape)
    values_BKX = values_BKX.masked_fill(~is_forbidden_BKX, float("inf"))
    values_BKX = values_BKX.masked_fill(is_forbidden_BKX, float("-inf"))
    scores_BKV.scatter_reduce_(2, tokens_BKX, values_BKX, "amin")
