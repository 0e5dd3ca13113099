"""Hypotheses that have ended: the best K of each sentence."""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.search import hosting


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """The target ids that search treats in a way of their own.

    Attributes:
        bos: begins a target.
        eos: ends it.
        pad: fills up batches.
        continuing: ids that go on with the word before them.
    """

    bos: int
    eos: int
    pad: int
    continuing: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One finished translation.

    Attributes:
        tokens: ids without BOS and EOS.
        log_probability: sum over the tokens, EOS included.
        score: what hypotheses are ranked by, higher is better: `log_probability` over the length
            penalty; a coverage penalty and a repetition penalty are part of it.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


@dataclasses.dataclass(frozen=True)
class Finished:
    """The best K finished hypotheses of each sentence, K / G of each group.

    Their tokens start with BOS and have no EOS. Places that are not taken yet have a score of -inf.
    """

    scores_BK: torch.Tensor
    sums_BK: torch.Tensor
    lengths_BK: torch.Tensor
    tokens_BKT: torch.Tensor
    num_finished_BG: torch.Tensor

    @property
    def num_groups(self) -> int:
        """G; 1 but for diverse beam search."""
        return self.num_finished_BG.shape[1]

    def keep(self, chosen: torch.Tensor) -> "Finished":
        """Returns those of these sentences only."""
        return Finished(
            *(
                getattr(self, field.name).index_select(0, chosen)
                for field in dataclasses.fields(self)
            )
        )

    def add(
        self,
        sums_BK: torch.Tensor,
        tokens_BKT: torch.Tensor,
        penalties_B: torch.Tensor,
        extra_BK: torch.Tensor | None,
    ) -> "Finished":
        """Returns the best K of these and those that end here.

        Args:
            sums_BK: log-probabilities of those that end, EOS included; -inf at other places.
            tokens_BKT: their tokens, with BOS, without EOS.
            penalties_B: length penalty.
            extra_BK: what is added to their scores, if anything.
        """
        length = tokens_BKT.shape[2]
        scores_BK = sums_BK / penalties_B[:, None]
        if extra_BK is not None:
            scores_BK = scores_BK + extra_BK
        lengths_BK = torch.full_like(self.lengths_BK, length)
        missing = length - self.tokens_BKT.shape[2]
        old_BKT = torch.nn.functional.pad(self.tokens_BKT, (0, missing))
        all_scores_BX = self._join(self.scores_BK, scores_BK)
        kept_scores_BK, order_BK = self._best(all_scores_BX)
        num_ended_BG = self._by_group(sums_BK.isfinite()).sum(2)
        return Finished(
            kept_scores_BK,
            self._join(self.sums_BK, sums_BK).gather(1, order_BK),
            self._join(self.lengths_BK, lengths_BK).gather(1, order_BK),
            take(self._join(old_BKT, tokens_BKT), order_BK),
            self.num_finished_BG + num_ended_BG,
        )

    def worst(self, num_best_B: torch.Tensor) -> torch.Tensor:
        """Returns the worst score [B, G] that a sentence would hand back now, of each group."""
        scores_BGK = self._by_group(self.scores_BK)
        last_BG1 = (num_best_B.clamp(max=scores_BGK.shape[2]) - 1)[:, None, None]
        return scores_BGK.gather(2, last_BG1.expand(-1, self.num_groups, -1)).squeeze(2)

    def collect(self, chosen: list[int], counts: Sequence[int]) -> list[list[Hypothesis]]:
        """Returns the finished hypotheses of some sentences, best first.

        Args:
            chosen: places of the sentences.
            counts: how many of each are wanted at most.
        """
        if not chosen:
            return []
        rows = hosting.to_device(chosen, self.scores_BK.device)
        own, count = self.keep(rows), max(counts)
        if self.num_groups > 1:
            _, order_BK = own.scores_BK.sort(dim=1, descending=True, stable=True)
            own = Finished(
                own.scores_BK.gather(1, order_BK),
                own.sums_BK.gather(1, order_BK),
                own.lengths_BK.gather(1, order_BK),
                take(own.tokens_BKT, order_BK),
                own.num_finished_BG,
            )
        scores = hosting.to_host(own.scores_BK[:, :count])
        sums = hosting.to_host(own.sums_BK[:, :count])
        lengths = hosting.to_host(own.lengths_BK[:, :count])
        tokens = hosting.to_host(own.tokens_BKT[:, :count])
        return [
            [
                Hypothesis(tuple(tokens[i][k][1 : lengths[i][k]]), sums[i][k], scores[i][k])
                for k in range(counts[i])
                if scores[i][k] > float("-inf")
            ]
            for i in range(len(chosen))
        ]

    def _by_group(self, entries_BK: torch.Tensor) -> torch.Tensor:
        return entries_BK.view(entries_BK.shape[0], self.num_groups, -1)

    def _join(self, old_BK: torch.Tensor, new_BK: torch.Tensor) -> torch.Tensor:
        """Returns old and new entries beside each other within their groups, [B, 2K, ...]."""
        if self.num_groups == 1:
            return torch.cat([old_BK, new_BK], dim=1)
        sizes = (old_BK.shape[0], self.num_groups, -1, *old_BK.shape[2:])
        pair = [entries.reshape(sizes) for entries in (old_BK, new_BK)]
        return torch.cat(pair, dim=2).flatten(1, 2)

    def _best(self, scores_BX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the better half of each group, and its places among all [B, K]."""
        scores_BGX = self._by_group(scores_BX)
        size = scores_BGX.shape[2]
        best_BGK, order_BGK = scores_BGX.topk(size // 2, dim=2)
        if self.num_groups > 1:
            begins_G = torch.arange(self.num_groups, device=scores_BX.device) * size
            order_BGK = order_BGK + begins_G[:, None]
        return best_BGK.flatten(1), order_BGK.flatten(1)


def start(num_sentences: int, beam: int, num_groups: int, device: torch.device) -> Finished:
    """Returns a place for K hypotheses of each sentence, none of them taken."""
    closed_BK = torch.full((num_sentences, beam), float("-inf"), device=device)
    none_BK = torch.zeros((num_sentences, beam), dtype=torch.int64, device=device)
    return Finished(
        closed_BK,
        closed_BK,
        none_BK,
        none_BK.unsqueeze(2),
        torch.zeros((num_sentences, num_groups), dtype=torch.int64, device=device),
    )


def take(tokens_BKT: torch.Tensor, chosen_BK: torch.Tensor) -> torch.Tensor:
    """Returns the rows of each sentence in the order chosen, [B, K, T]."""
    return tokens_BKT.gather(1, chosen_BK.unsqueeze(2).expand(-1, -1, tokens_BKT.shape[2]))
