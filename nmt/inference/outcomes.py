"""What becomes of a line: translations with what is known of them, or an error in words."""

import dataclasses
from collections.abc import Sequence

from nmt import errors
from nmt.config import schema
from nmt.evaluation import mbr
from nmt.inference import alignments, requests
from nmt.text import glossary

# Candidates of a line for minimum Bayes risk where nothing else is said and samples are drawn.
NUM_SAMPLES = 32


@dataclasses.dataclass(frozen=True)
class Translation:
    """One translation of one line.

    Attributes:
        text: the translation, without line breaks.
        score: log-probability over the length penalty, and other penalties that were asked for;
            higher is better. 0 for a blank line, -inf where the search found nothing.
        log_probability: sum over the target tokens, EOS included.
        tokens: target ids, without BOS and EOS.
        pieces: the tokens as they are written, EOS included; None where nobody asked.
        token_scores: the log-probability of each of them; likewise.
        alignment: source word and target word of each target word; likewise.
        utility: the expected one in percent, where minimum Bayes risk chose; None elsewhere.
    """

    text: str
    score: float = 0.0
    log_probability: float = 0.0
    tokens: tuple[int, ...] = ()
    pieces: tuple[str, ...] | None = None
    token_scores: tuple[float, ...] | None = None
    alignment: alignments.Alignment | None = None
    utility: float | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one request: translations, or an error in words."""

    translations: list[Translation]
    error: str | None = None


def blank(request: requests.Request) -> Translation:
    """Returns the translation of a blank line, with all that was asked for."""
    return Translation(
        "",
        pieces=() if request.decoding.token_scores else None,
        token_scores=() if request.decoding.token_scores else None,
        alignment=() if request.decoding.alignments else None,
    )


def missing(request: requests.Request) -> Translation:
    """Returns what stands for a translation that there is none of, with all that was asked for."""
    never = float("-inf")
    return dataclasses.replace(blank(request), score=never, log_probability=never)


def joined(parts: Sequence[Outcome], avoid: Sequence[str] = ()) -> Outcome:
    """Returns the outcome of a line from those of its parts: the n-th of each, with a space between.

    Log-probabilities and scores are summed, since parts are translated on their own; utilities, which
    are percents, are averaged. Parts have no alignment (`check_parts`).

    Args:
        parts: one at least.
        avoid: phrases that the line may not contain; where two parts make one, that is its error.
    """
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.error is not None:
            return part
    found = [_in_a_row(row) for row in zip(*(part.translations for part in parts), strict=True)]
    for phrase in avoid:
        if any(
            occurrences(one.text, phrase)
            > sum(occurrences(part.translations[place].text, phrase) for part in parts)
            for place, one in enumerate(found)
        ):
            return Outcome(
                [],
                f"avoid: {phrase!r} stands where two parts of the line meet. Shorten the line, or take "
                "--long truncate.",
            )
    return Outcome(found)


def occurrences(text: str, phrase: str) -> int:
    """Returns how often a phrase stands in a text as it is written, and is no part of a longer word."""
    phrase = " ".join(phrase.split())
    return len(glossary.Glossary({phrase: phrase}).targets(text)) if phrase else 0


def check_parts(request: requests.Request) -> None:
    """Refuses what has no meaning for a line that is translated in parts.

    Raises:
        errors.UsageError: the request has it.
    """
    for name, is_used in (
        ("target_prefix", bool(request.target_prefix)),
        ("constraints", bool(request.constraints)),
        ("alignments", request.decoding.alignments),
    ):
        if is_used:
            raise errors.UsageError(
                f"{name}: does not go with a line that is so long that it is split. "
                "Shorten the line, or take --long truncate."
            )


def num_candidates(risk: mbr.Settings, decoding: schema.DecodingConfig, num_best: int) -> int:
    """Returns how many candidates a search has to find for minimum Bayes risk to choose among.

    Args:
        risk: how it chooses.
        decoding: the settings of the search.
        num_best: translations wanted.

    Raises:
        errors.UsageError: so many cannot be found, or are too few.
    """
    usual = NUM_SAMPLES if decoding.sample else decoding.beam_size
    wanted = risk.num_candidates or usual
    if wanted > schema.MAX_HYPOTHESES:
        raise errors.UsageError(
            f"--mbr-candidates: wants {schema.MAX_HYPOTHESES:,} at most (given: {wanted})."
        )
    if wanted > decoding.beam_size and not decoding.sample:
        raise errors.UsageError(
            f"--mbr-candidates: more than the beam is wide (given: {wanted}, beam "
            f"{decoding.beam_size}). Raise --beam-size, lower --mbr-candidates, or --sample."
        )
    if num_best > wanted:
        raise errors.UsageError(
            f"--nbest: more than the candidates of --mbr (given: {num_best} of {wanted}). "
            "Lower it, or raise --mbr-candidates and --beam-size."
        )
    return wanted


def by_utility(found: Sequence[Translation], risk: mbr.Settings) -> list[Translation]:
    """Returns candidates in the order of their expected utility, whichever way they were made."""
    utilities = mbr.expected_utilities(
        [candidate.text for candidate in found],
        [candidate.log_probability for candidate in found],
        risk,
    )
    return [
        dataclasses.replace(found[place], utility=utilities[place])
        for place in mbr.ranking(utilities)
    ]


def _in_a_row(row: Sequence[Translation]) -> Translation:
    utilities = [found.utility for found in row if found.utility is not None]
    is_told = all(found.token_scores is not None for found in row)
    return Translation(
        " ".join(found.text for found in row if found.text),
        sum(found.score for found in row),
        sum(found.log_probability for found in row),
        tuple(token for found in row for token in found.tokens),
        pieces=tuple(piece for found in row for piece in found.pieces or ()) if is_told else None,
        token_scores=(
            tuple(score for found in row for score in found.token_scores or ()) if is_told else None
        ),
        utility=sum(utilities) / len(utilities) if utilities else None,
    )
