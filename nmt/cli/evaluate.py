"""`nmt evaluate`: translations against references, one system alone or several side by side."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from nmt import errors
from nmt.cli import evaluate_sets
from nmt.evaluation import breakdowns, judging, metrics, score_tables, significance
from nmt.runtime import characters, files

logger = logging.getLogger(__name__)

# Options in the order in which their scores are printed.
METRIC_FLAGS = ("bleu", "chrf", "ter", "exact_match")
DEFAULT_METRICS = ("bleu", "chrf")


def run(args: argparse.Namespace) -> int:
    """Scores ready files, or the translations that models make of the test set or of --src.

    Args:
        args: what `evaluate_flags.add` adds, and the flags of `nmt translate`.

    Returns:
        0.
    """
    chosen = _chosen(args)
    _check(args, chosen)
    # Before anything is translated: what is unknown, not installed or not there says so at once.
    request = _request(args, chosen)
    _check_outputs(args)
    counts = None
    if args.frequency_text is not None:
        counts = breakdowns.word_counts(evaluate_sets.read_lines(args.frequency_text))
    with _opened(args.segments) as segments:
        # Out before it is scored, so that nothing which goes wrong from there on loses it.
        with _opened(args.output) as output:
            if args.hyp:
                given = evaluate_sets.ready(args, wants_sources=_wants_sources(args, chosen))
            else:
                given = evaluate_sets.translated(args)
            if output is not None:
                made = [line for one in given for own in one.systems.values() for line in own]
                output.write(characters.encoded("".join(f"{line}\n" for line in made)))
        found = _judged(given, request, counts)
        if segments is not None:
            segments.write(characters.encoded(score_tables.to_segments(found)))
    # In UTF-8 like all output, whatever the terminal is set to: intervals have a μ and a ±.
    sys.stdout.buffer.write(characters.encoded(_shown(args, found)))
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuses to write into a file that is read or written for something else, too."""
    taken: dict[Path, str] = {}
    for flag in ("hyp", "ref", "src", "frequency_text", "output", "segments"):
        given = getattr(args, flag)
        for name in [given] if isinstance(given, str) else given or []:
            place = Path(name).resolve()
            is_written = flag in {"output", "segments"}
            # What is no file, such as /dev/stdout, takes from several.
            if is_written and place in taken and not (place.exists() and not place.is_file()):
                raise errors.UsageError(
                    f"--{flag}: is the file of --{taken[place]}, too (given: {name}). Name another one."
                )
            taken[place] = flag.replace("_", "-")


def _opened(path: str | None) -> contextlib.AbstractContextManager[BinaryIO | None]:
    return contextlib.nullcontext() if path is None else files.atomic_write(Path(path))


def _judged(
    given: Sequence[evaluate_sets.Given],
    request: judging.Request,
    counts: dict[str, int] | None,
) -> list[judging.Judgement]:
    found = []
    for one in given:
        _warn_of_missing(one.references, one.systems)
        texts = breakdowns.Texts(one.references, one.sources, counts)
        found += judging.judge(one.systems, texts, request, pair=one.pair)
    return found


def _shown(args: argparse.Namespace, found: Sequence[judging.Judgement]) -> str:
    if args.json:
        return score_tables.to_json(found)
    if args.tsv:
        return score_tables.to_tsv(found)
    return score_tables.to_text(found)


def _wants_sources(args: argparse.Namespace, chosen: Sequence[str]) -> bool:
    return "copy" in (args.by or ()) or "comet" in chosen


def _chosen(args: argparse.Namespace) -> list[str]:
    """Returns the names of the metrics, each once: those with flags of their own come first."""
    flagged = [name for name in METRIC_FLAGS if getattr(args, name)]
    named = [metrics.key_of(name) for name in args.metric or []]
    return list(dict.fromkeys([*flagged, *named])) or list(DEFAULT_METRICS)


def _wants_intervals(args: argparse.Namespace) -> bool:
    return args.confidence or len(args.hyp or args.model or []) > 1


def _request(args: argparse.Namespace, chosen: Sequence[str]) -> judging.Request:
    settings = metrics.MetricSettings(
        lowercase=bool(args.lowercase),
        tokenize=args.tokenize or "13a",
        comet_model=args.comet_model,
        may_download=bool(args.download),
    )
    if _wants_intervals(args):
        significance.seed()
    return judging.Request(
        [metrics.build(name, settings) for name in chosen],
        (args.resamples or significance.NUM_RESAMPLES) if _wants_intervals(args) else None,
        args.trials or significance.NUM_TRIALS,
        args.by or (),
    )


def _check(args: argparse.Namespace, chosen: Sequence[str]) -> None:
    """Refuses flags that would be ignored or do not fit.

    Raises:
        errors.UsageError: there is one.
    """
    named = args.hyp or args.model or []
    for name in named:
        if named.count(name) > 1:
            flag = "--hyp" if args.hyp else "--model"
            raise errors.UsageError(f"{flag}: the same system twice (given: {name}). Give it once.")
    ignored = (
        (args.resamples and not _wants_intervals(args), "resamples", "--confidence"),
        (args.trials and len(named) < 2, "trials", "several --hyp or --model"),
        (
            args.frequency_text and "frequency" not in (args.by or ()),
            "frequency-text",
            "--by frequency",
        ),
        (args.tokenize and "bleu" not in chosen, "tokenize", "BLEU"),
        (args.comet_model and "comet" not in chosen, "comet-model", "--metric comet"),
        (args.download and "comet" not in chosen, "download", "--metric comet"),
    )
    for is_ignored, flag, remedy in ignored:
        if is_ignored:
            raise errors.UsageError(f"--{flag}: would be ignored without {remedy}. Give both.")
    if args.output is not None and len(named) > 1:
        raise errors.UsageError(
            f"--output: takes the translations of one system (given: {len(named)}). "
            "Use `nmt translate` for each."
        )


def _warn_of_missing(
    references: Sequence[Sequence[str]], systems: Mapping[str, Sequence[str]]
) -> None:
    """Says which lines have no reference: they count as wrong, and are probably an accident.

    Of several references one may be blank, for want of another; but an empty translation equals it.
    """
    for name, translations in systems.items():
        equal = [
            number
            for number, (found, *lines) in enumerate(
                zip(translations, *references, strict=True), start=1
            )
            if not found.strip() and len({bool(line.strip()) for line in lines}) == 2
        ]
        if equal:
            logger.warning(
                "%s: lines that are empty, and equal a blank reference beside others: %d "
                "(first: line %d)",
                name,
                len(equal),
                equal[0],
            )
    missing = [
        number
        for number, lines in enumerate(zip(*references, strict=True), start=1)
        if not any(line.strip() for line in lines)
    ]
    if missing:
        logger.warning(
            "lines whose reference is blank, which every word of a translation counts against: "
            "%d (first: line %d)",
            len(missing),
            missing[0],
        )
