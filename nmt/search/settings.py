"""The settings of a search, sentence by sentence, and the length penalty."""

import dataclasses
import math
from collections.abc import Sequence

import torch

from nmt.search import hosting

# The ids of a phrase, without BOS and EOS.
Phrase = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What a search is asked for; lengths in target tokens, EOS included.

    Attributes:
        beam_size: hypotheses kept per sentence, K.
        num_best: hypotheses returned per sentence, at most K; with `sample` as many are drawn.
        length_penalty: alpha of `penalty`; 0 is the plain sum of log-probabilities.
        min_length: tokens before EOS at least.
        min_length_ratio: the same as a multiple of the source length without its EOS.
        max_length: longest target.
        max_length_ratio: longest target as a multiple of the source length, plus `SLACK`.
        patience: a sentence is done with `beam_size * patience` finished hypotheses, if no open
            one is better.
        exact_stop: a sentence is done when no open hypothesis can win any more, instead.
        coverage_penalty: beta of `coverage.penalty`; 0 is none.
        no_repeat_ngram_size: no sequence of so many tokens comes twice; 0 allows all.
        repetition_penalty: what the log-probability of a token that is there already is multiplied
            with; 1 changes nothing.
        sample: draw each token from the model instead of searching for the likeliest sentence.
        temperature: what logits are divided by before a token is drawn.
        top_k: draw from so many likeliest tokens; 0 is all.
        top_p: draw from the likeliest tokens that have this share of the probability together.
        seed: of the drawing.
        diversity_groups: the beam is split into so many groups, which avoid each other's tokens.
        diversity_penalty: what a token costs for each hypothesis of an earlier group that takes it.
    """

    beam_size: int = 5
    num_best: int = 1
    length_penalty: float = 1.0
    min_length: int = 0
    min_length_ratio: float = 0.0
    max_length: int = 512
    max_length_ratio: float = 3.0
    patience: float = 1.0
    exact_stop: bool = False
    coverage_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    diversity_groups: int = 1
    diversity_penalty: float = 0.0

    @property
    def num_hypotheses(self) -> int:
        """Hypotheses that are open at a time: K."""
        return self.num_best if self.sample else self.beam_size

    @property
    def num_finished(self) -> int:
        """Finished hypotheses (of a group) at which a sentence is done by the usual rule."""
        size = self.num_hypotheses // self.diversity_groups
        if self.sample:
            return size
        return max(math.ceil(size * self.patience), min(self.num_best, size))

    @property
    def kind(self) -> tuple[int, bool, int]:
        """What the sentences of one search have to have in common: K, drawing or not, groups."""
        return (self.num_hypotheses, self.sample, self.diversity_groups)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of one sentence.

    Attributes:
        settings: numbers.
        prefix: target tokens that every hypothesis begins with.
        avoid: phrases that no hypothesis contains (the prefix may).
        constraints: phrases that every hypothesis contains.
        closed: for each of them whether its end has to be the end of a word; empty for none. Then all
            of them have to begin with a token that begins a word.
        sample_key: tells the random numbers of this sentence from those of others, 0 to 2**62.
        num_tags: tokens of the source that are no text, and do not count in ratios of lengths.
    """

    settings: SearchSettings
    prefix: Phrase = ()
    avoid: tuple[Phrase, ...] = ()
    constraints: tuple[Phrase, ...] = ()
    closed: tuple[bool, ...] = ()
    sample_key: int = 0
    num_tags: int = 0

    @property
    def names_tokens(self) -> bool:
        """Whether certain tokens are asked for or forbidden."""
        return bool(self.prefix or self.avoid or self.constraints)

    @property
    def num_forced(self) -> int:
        """Tokens that the prefix and the constraints may take."""
        return len(self.prefix) + sum(len(phrase) for phrase in self.constraints)


# Short sources may need a translation of many times their length, so the ratio alone is too strict.
SLACK = 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """The settings that every search has, as tensors over its sentences.

    Attributes:
        min_lengths_B: tokens before EOS at least.
        max_lengths_B: longest target, EOS included.
        length_penalties_B: alpha, in the widest type of the device.
        num_best_B: hypotheses returned.
        num_finished_B: see `SearchSettings.num_finished`.
        exact_stop_B: the rule of stopping.
        never_below: no sentence has a shorter `max_lengths_B`; known without asking the device.
        some_exact, some_usual, some_minimum: whether any sentence needs the rule; likewise.
    """

    min_lengths_B: torch.Tensor
    max_lengths_B: torch.Tensor
    length_penalties_B: torch.Tensor
    num_best_B: torch.Tensor
    num_finished_B: torch.Tensor
    exact_stop_B: torch.Tensor
    never_below: int
    some_exact: bool
    some_usual: bool
    some_minimum: bool

    def keep(self, chosen: torch.Tensor) -> "Limits":
        """Returns the limits of these sentences only."""
        changes = {
            field.name: getattr(self, field.name).index_select(0, chosen)
            for field in dataclasses.fields(self)
            if field.name.endswith("_B")
        }
        return dataclasses.replace(self, **changes)

    def penalties(self, lengths: float | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Returns the length penalty [B] of a length, or one of each sentence, in a dtype."""
        found = penalty(lengths, self.length_penalties_B)
        assert isinstance(found, torch.Tensor), "alpha is a tensor here"
        return found.to(like.dtype)


def limits(
    requests: Sequence[Request], src_lengths_B: torch.Tensor, max_positions: int | None
) -> Limits:
    """Returns the limits of each sentence, which depend on it alone.

    Args:
        requests: one for each sentence.
        src_lengths_B: source lengths, EOS and tags included.
        max_positions: what the decoder can represent, or None.
    """
    settings = [request.settings for request in requests]
    device = src_lengths_B.device
    # The longest anyone may ask for, and what has to have a place in any case.
    caps = [
        one.max_length if max_positions is None else min(one.max_length, max_positions)
        for one in settings
    ]
    floors = [max(one.settings.min_length, one.num_forced) + 1 for one in requests]
    floors_B = hosting.to_device(floors, device)
    caps_B = hosting.to_device(caps, device)
    ratios_B = hosting.floats_to_device([one.max_length_ratio for one in settings], device)
    min_ratios_B = hosting.floats_to_device([one.min_length_ratio for one in settings], device)
    tags_B = hosting.to_device([request.num_tags for request in requests], device)
    lengths_B = (src_lengths_B - tags_B).to(ratios_B.dtype)
    minima_B = ((lengths_B - 1) * min_ratios_B).ceil().to(torch.int64)
    minima_B = minima_B.maximum(hosting.to_device([one.min_length for one in settings], device))
    minima_B = minima_B.minimum(caps_B - 1)
    # A limit below the shortest target that is asked for would leave no translation at all.
    maxima_B = ((lengths_B * ratios_B).ceil() + SLACK).to(torch.int64)
    maxima_B = maxima_B.maximum(minima_B + 1).maximum(floors_B).minimum(caps_B)
    return Limits(
        min_lengths_B=minima_B,
        max_lengths_B=maxima_B,
        length_penalties_B=hosting.floats_to_device(
            [one.length_penalty for one in settings], device
        ),
        num_best_B=hosting.to_device([one.num_best for one in settings], device),
        num_finished_B=hosting.to_device([one.num_finished for one in settings], device),
        exact_stop_B=hosting.to_device([int(one.exact_stop) for one in settings], device) > 0,
        never_below=min(*caps, SLACK) if len(caps) else SLACK,
        some_exact=any(one.exact_stop for one in settings),
        some_usual=not all(one.exact_stop for one in settings),
        some_minimum=any(one.min_length > 0 or one.min_length_ratio > 0 for one in settings),
    )


def penalty(length: float | torch.Tensor, alpha: float | torch.Tensor) -> float | torch.Tensor:
    """Returns what the score of a hypothesis is divided by.

    Source: Wu et al. 2016, equation 14, without the coverage term: ((5 + |Y|) / 6) ** alpha.

    Args:
        length: |Y| in tokens, EOS included.
        alpha: the strength; 0 gives 1.
    """
    return ((5.0 + length) / 6.0) ** alpha
