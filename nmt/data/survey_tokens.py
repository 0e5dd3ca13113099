"""The pairs of a corpus in tokens: what the filters would drop, and what the vocabulary covers."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Protocol

from nmt.data import filters, findings, survey_pairs
from nmt.text import vocab

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class Tokenizer(Protocol):
    """What a survey needs of a tokenizer."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without BOS and EOS."""


class WordCounter:
    """Stands in for a tokenizer where none could be made: a token is what stands between spaces."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns a 0 for each word of each text."""
        return [[0] * len(text.split()) for text in texts]


@dataclasses.dataclass
class TokenSurvey:
    """Figures of the sampled pairs of one corpus.

    Attributes:
        counts: what the training filters would do with each pair.
        examples: the line of the first pair that each filter would drop, by its name.
        num_src: source tokens of the pairs that are kept, EOS included.
        num_tgt: target tokens of the pairs that are kept, EOS included.
        longest_src: tokens of the longest source, EOS included.
        longest_tgt: tokens of the longest target, EOS included.
        uncovered: tokens that are unknown or spelled in bytes, by side.
        num_tokens: all tokens without EOS, by side.
        uncovered_lines: the first line with an uncovered token, by side.
    """

    counts: filters.FilterCounts = dataclasses.field(default_factory=filters.FilterCounts)
    examples: dict[str, int] = dataclasses.field(default_factory=dict)
    num_src: int = 0
    num_tgt: int = 0
    longest_src: int = 0
    longest_tgt: int = 0
    uncovered: dict[str, int] = dataclasses.field(default_factory=dict)
    num_tokens: dict[str, int] = dataclasses.field(default_factory=dict)
    uncovered_lines: dict[str, int] = dataclasses.field(default_factory=dict)


def survey_tokens(
    pairs: Sequence[survey_pairs.Pair],
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
    pair_filter: filters.PairFilter,
    uncovered_ids: dict[str, frozenset[int]],
) -> TokenSurvey:
    """Tokenises a sample.

    Args:
        pairs: the sample.
        src_tokenizer: of the source side.
        tgt_tokenizer: of the target side.
        pair_filter: the limits of training.
        uncovered_ids: by side (`src`, `tgt`), see `uncovered_ids`.
    """
    survey = TokenSurvey()
    sides = {
        "src": src_tokenizer.encode_batch([pair.src for pair in pairs]),
        "tgt": tgt_tokenizer.encode_batch([pair.tgt for pair in pairs]),
    }
    for pair, src, tgt in zip(pairs, sides["src"], sides["tgt"], strict=True):
        before = dataclasses.replace(survey.counts)
        if pair_filter.keeps(src, tgt, survey.counts):
            survey.num_src += len(src) + 1
            survey.num_tgt += len(tgt) + 1
        else:
            fates = ("empty", "too_long", "ratio")
            fate = next(n for n in fates if getattr(survey.counts, n) > getattr(before, n))
            survey.examples.setdefault(fate, pair.line)
        survey.longest_src = max(survey.longest_src, len(src) + 1)
        survey.longest_tgt = max(survey.longest_tgt, len(tgt) + 1)
    for side, sentences in sides.items():
        ids = uncovered_ids.get(side, frozenset())
        survey.num_tokens[side] = sum(map(len, sentences))
        missed = [sum(token in ids for token in sentence) for sentence in sentences]
        survey.uncovered[side] = sum(missed)
        first = next((p.line for p, number in zip(pairs, missed, strict=True) if number), None)
        if first is not None:
            survey.uncovered_lines[side] = first
    return survey


def uncovered_ids(pieces: vocab.Vocab) -> frozenset[int]:
    """Returns the ids that stand for what the vocabulary does not cover: unknown, and bytes."""
    numbered = enumerate(pieces.pieces)
    spelled = (number for number, piece in numbered if BYTE_PIECE.fullmatch(piece))
    return frozenset((pieces.unk_id, *spelled))


def filter_findings(
    place: str, survey: TokenSurvey, pair_filter: filters.PairFilter, unit: str
) -> list[findings.Finding]:
    """Returns what the training filters would drop.

    Args:
        place: the corpus.
        survey: its sample.
        pair_filter: the limits.
        unit: what lengths were counted in: `tokens`, or `words`.
    """
    counts, found = survey.counts, []
    limit = f"{pair_filter.max_src_length:,}"
    if pair_filter.max_tgt_length != pair_filter.max_src_length:
        limit += f" (source) or {pair_filter.max_tgt_length:,} (target)"
    ratio = f"{pair_filter.max_length_ratio:g}"
    for name, count, what, advice in (
        ("empty", counts.empty, f"pairs with a side of no {unit}", "Remove them."),
        (
            "too_long",
            counts.too_long,
            f"pairs longer than {limit} {unit}, which training drops",
            "Split them, or raise data.max_length (or what else sets this limit).",
        ),
        (
            "ratio",
            counts.ratio,
            f"pairs of which one side has more than {ratio} times the {unit}, which training drops",
            "Check that these lines translate each other.",
        ),
    ):
        if count:
            severity = findings.by_share(count, counts.total)
            line = survey.examples[name]
            found.append(findings.Finding(severity, place, what, advice, count, counts.total, line))
    if not counts.kept:
        advice = "Check the files, or raise data.max_length and data.max_length_ratio."
        found.append(findings.Finding("error", place, "no pair is left to train on", advice))
    return found


def cover_findings(place: str, survey: TokenSurvey) -> list[findings.Finding]:
    """Returns which sides of a held-out corpus the vocabulary covers badly.

    Args:
        place: the corpus.
        survey: its sample.
    """
    found = []
    for side, count in survey.uncovered.items():
        total = survey.num_tokens[side]
        if count and findings.by_share(count, total) == "warning":
            what = f"{side} tokens that are unknown or spelled in bytes"
            advice = "Check language and encoding; or take a larger vocabulary or subwords."
            line = survey.uncovered_lines[side]
            found.append(findings.Finding("warning", place, what, advice, count, total, line))
    return found
