"""The settings of a search, and the length penalty."""

import dataclasses
import math

import torch


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What a search is asked for; lengths in target tokens, EOS included.

    Attributes:
        beam_size: hypotheses kept per sentence, K.
        num_best: hypotheses returned per sentence, at most K.
        length_penalty: alpha of `penalty`; 0 is the plain sum of log-probabilities.
        min_length: tokens before EOS at least.
        max_length: longest target.
        max_length_ratio: longest target as a multiple of the source length, plus `SLACK`.
        patience: a sentence is done with `beam_size * patience` finished hypotheses, if no open
            one is better.
        exact_stop: a sentence is done when no open hypothesis can win any more, instead.
    """

    beam_size: int = 5
    num_best: int = 1
    length_penalty: float = 1.0
    min_length: int = 0
    max_length: int = 512
    max_length_ratio: float = 3.0
    patience: float = 1.0
    exact_stop: bool = False

    @property
    def num_finished(self) -> int:
        """Finished hypotheses at which a sentence is done by the usual rule."""
        return max(math.ceil(self.beam_size * self.patience), self.num_best)


# Short sources may need a translation of many times their length, so the ratio alone is too strict.
SLACK = 20


def max_lengths(
    settings: SearchSettings, src_lengths_B: torch.Tensor, max_positions: int | None
) -> torch.Tensor:
    """Returns the longest target [B] of each sentence, EOS included; it depends on itself alone.

    Args:
        settings: absolute and relative limits.
        src_lengths_B: source lengths, EOS included.
        max_positions: what the decoder can represent, or None.
    """
    lengths_B = (src_lengths_B.to(torch.float32) * settings.max_length_ratio).ceil() + SLACK
    # A limit below the shortest target that is asked for would leave no translation at all.
    lengths_B = lengths_B.clamp(min=settings.min_length + 1)
    limit = settings.max_length
    if max_positions is not None:
        limit = min(limit, max_positions)
    return lengths_B.clamp(max=limit).to(torch.int64)


def penalty(length: float | torch.Tensor, alpha: float) -> float | torch.Tensor:
    """Returns what the score of a hypothesis is divided by.

    Source: Wu et al. 2016, equation 14, without the coverage term: ((5 + |Y|) / 6) ** alpha.

    Args:
        length: |Y| in tokens, EOS included.
        alpha: the strength; 0 gives 1.
    """
    return ((5.0 + length) / 6.0) ** alpha
