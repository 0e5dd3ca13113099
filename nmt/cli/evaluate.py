"""`nmt evaluate`: translations against references, one system alone or several side by side."""

import argparse
import contextlib
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from nmt import errors
from nmt.evaluation import breakdowns, judging, metrics, score_tables, significance
from nmt.runtime import files

logger = logging.getLogger(__name__)

# Options in the order in which their scores are printed.
METRIC_FLAGS = ("bleu", "chrf", "ter", "exact_match")
DEFAULT_METRICS = ("bleu", "chrf")


@dataclasses.dataclass(frozen=True)
class _Given:
    """Translations by the name of their system, and what they are held against."""

    systems: dict[str, list[str]]
    references: list[list[str]]
    sources: list[str] | None


def run(args: argparse.Namespace) -> int:
    """Scores ready files, or the translations that models make of the test set or of --src.

    Args:
        args: what `evaluate_flags.add` adds, and the flags of `nmt translate`.

    Returns:
        0.
    """
    chosen = _chosen(args)
    _check(args, chosen)
    # Before anything is translated: a metric that is unknown or lacks its package says so at once.
    request = _request(args, chosen)
    with contextlib.ExitStack() as stack:
        # Opened before anything is translated: a place that cannot be written to is found at once.
        targets = {
            name: stack.enter_context(files.atomic_write(Path(path)))
            for name, path in (("output", args.output), ("segments", args.segments))
            if path is not None
        }
        given = _ready(args, chosen) if args.hyp else _translated(args)
        _warn_of_missing(given.references)
        counts = None
        if args.frequency_text is not None:
            counts = breakdowns.word_counts(_lines(args.frequency_text))
        texts = breakdowns.Texts(given.references, given.sources, counts)
        found = judging.judge(given.systems, texts, request)
        if "output" in targets:
            (lines,) = given.systems.values()
            targets["output"].write(_encoded("".join(f"{line}\n" for line in lines)))
        if "segments" in targets:
            targets["segments"].write(_encoded(score_tables.to_segments(found)))
    # In UTF-8 like all output, whatever the terminal is set to: intervals have a μ and a ±.
    sys.stdout.buffer.write(_encoded(_shown(args, found, len(given.references[0]))))
    return 0


def _shown(args: argparse.Namespace, found: Sequence[judging.Judgement], num_lines: int) -> str:
    if args.json:
        return score_tables.to_json(found)
    if args.tsv:
        return score_tables.to_tsv(found, num_lines)
    return score_tables.to_text(found, num_lines)


def _encoded(text: str) -> bytes:
    """Returns the text in UTF-8; the name of a file may be none, and keeps its bytes."""
    return text.encode("utf-8", "surrogateescape")


def _chosen(args: argparse.Namespace) -> list[str]:
    """Returns the names of the metrics, each once: those with flags of their own come first."""
    flagged = [name for name in METRIC_FLAGS if getattr(args, name)]
    named = [name.lower().replace("-", "_") for name in args.metric or []]
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


def _ready(args: argparse.Namespace, chosen: Sequence[str]) -> _Given:
    """Returns the lines of every --hyp and every --ref; no model is needed."""
    wants_sources = "copy" in (args.by or ()) or "comet" in chosen
    if args.model or (args.src is not None and not wants_sources):
        flag = "--model" if args.model else "--src"
        raise errors.UsageError(f"{flag}: would be ignored, since --hyp is translated already.")
    if not args.ref:
        raise errors.UsageError("--hyp: wants --ref, the file of references, at least once.")
    systems = {path: _lines(path) for path in args.hyp}
    references = [_lines(path) for path in args.ref]
    first, number = args.hyp[0], len(systems[args.hyp[0]])
    for path, lines in [*zip(args.ref, references, strict=True), *systems.items()]:
        if len(lines) != number:
            raise errors.DataError(
                f"{path}: {len(lines)} lines, but {number} translations in {first}. "
                "Each translation wants one line of each reference."
            )
    sources = None if args.src is None else _lines(args.src)
    if sources is not None and len(sources) != number:
        raise errors.DataError(
            f"{args.src}: {len(sources)} lines, but {number} translations in {first}. "
            "Each translation wants its source."
        )
    return _Given(systems, references, sources)


def _translated(args: argparse.Namespace) -> _Given:
    """Returns translations by each --model and the references, of --src/--ref or of the test set."""
    if (args.src is None) != (not args.ref):
        raise errors.UsageError("--src and --ref: give both, or neither for the model's test set.")
    ensembles = [_members(text) for text in args.model or []]
    if args.ensemble_weights is not None and len(ensembles) > 1:
        raise errors.UsageError(
            f"--ensemble-weights: belong to one ensemble (given: {len(ensembles)} systems). "
            "Several --model are compared; write an ensemble as --model A,B."
        )
    # Imported here, so that scoring a ready file need not wait for torch.
    from nmt.inference import loading

    if not ensembles:
        ensembles = [[str(path)] for path in loading.find_model(None)]
    if args.src is not None:
        sources, references = _lines(args.src), [_lines(path) for path in args.ref]
    else:
        sources, references = _test_set(Path(ensembles[0][0]))
        if len(ensembles) > 1:
            logger.info("test set: data.test of %s, for all models", ensembles[0][0])
    for path_name, reference in zip(args.ref or ["data.test"], references, strict=True):
        if len(reference) != len(sources):
            raise errors.DataError(
                f"{path_name}: {len(reference)} lines, but the source has {len(sources)}. "
                "Each source line wants one reference."
            )
    names = args.model or [ensembles[0][0]]
    systems = {
        name: _translations(args, members, sources)
        for name, members in zip(names, ensembles, strict=True)
    }
    return _Given(systems, references, sources)


def _members(text: str) -> list[str]:
    """Returns the folders of an ensemble; a comma may also be part of a folder's name."""
    return [text] if Path(text).exists() else text.split(",")


def _test_set(path: Path) -> tuple[list[str], list[list[str]]]:
    from nmt.checkpoint import folder
    from nmt.config import loading as config_loading
    from nmt.data import readers

    config = config_loading.parse(folder.read_config(path), str(path / "config.yaml"))
    if config.data.test is None:
        raise errors.UsageError(
            f"{path}: its configuration names no data.test. Give --src and --ref."
        )
    pairs = list(readers.read_pairs(config.data.test))
    return [src for src, _ in pairs], [[tgt for _, tgt in pairs]]


def _translations(
    args: argparse.Namespace, members: Sequence[str], sources: Sequence[str]
) -> list[str]:
    from nmt.cli import translate

    own = argparse.Namespace(**{**vars(args), "model": list(members)})
    machine = translate.build_translator(own)
    hypotheses = [found[0].text for found in machine.translate(sources)]
    for what, number in (("cut", machine.num_cut), ("split", machine.num_split)):
        if number:
            logger.warning(
                "lines that were longer than the model reads and were %s: %d", what, number
            )
    return hypotheses


def _warn_of_missing(references: Sequence[Sequence[str]]) -> None:
    """Says which lines have no reference: they count as wrong, and are probably an accident."""
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


def _lines(path: str) -> list[str]:
    """Returns the lines of a file.

    Raises:
        errors.DataError: it has none.
    """
    found = list(files.read_lines(Path(path)))
    if not found:
        raise errors.DataError(f"{path}: is empty: there is no line to score.")
    return found
