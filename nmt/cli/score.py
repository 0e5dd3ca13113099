"""`nmt score`: how probable a model finds given translations."""

import argparse
import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from nmt import errors
from nmt.cli import reranking_flags
from nmt.config import loading as config_loading
from nmt.evaluation import nbest
from nmt.inference import loading, scorer
from nmt.runtime import files, lines

logger = logging.getLogger(__name__)

# Pairs that are sorted and batched together, as for translation.
CHUNK_LINES = 4096


@dataclasses.dataclass(frozen=True)
class Pair:
    """A source, a target, and the entry of the n-best list that the target comes from, if any."""

    src: str
    tgt: str
    entry: nbest.Entry | None = None


def run(args: argparse.Namespace) -> int:
    """Scores pairs from two files, from stdin, or an n-best list with its sources.

    Args:
        args: `model`, `ensemble_weights`, `src`, `tgt`, `nbest`, `output`, `format`, `tokens`,
            `length_penalty`, `batch_tokens`, `tgt_lang`, `device`, `precision`, `threads`.

    Returns:
        0.
    """
    _check(args)
    counter = files.DecodeCounter()
    if args.nbest is not None:
        sources = list(files.read_lines(args.src, counter))
        chunks = _chunked(_listed(args.nbest, sources, args.src, counter))
    elif args.src is not None:
        _check_lengths(args.src, args.tgt)
        chunks = _chunked(_paired(args.src, args.tgt, counter))
    else:
        chunks = _from_stdin(counter)
    machine, pieces = _build(args)
    written = _formatter(args.format or "tsv", pieces if args.tokens else None)
    if args.output is None:
        _write_all(machine, chunks, lines.LineWriter(sys.stdout.buffer), written)
    else:
        with files.atomic_write(Path(args.output)) as target:
            _write_all(machine, chunks, lines.LineWriter(target), written)
    if counter.num_invalid:
        logger.warning(
            "lines that were not valid UTF-8, whose bad bytes were replaced: %d",
            counter.num_invalid,
        )
    if machine.num_cut:
        logger.warning(
            "pairs that were longer than the model reads and were cut: %d", machine.num_cut
        )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Finds options that do not go together, and files that cannot be read, before any work."""
    if args.nbest is not None and args.tgt is not None:
        raise errors.UsageError("--tgt: does not go with --nbest, which has the targets. Drop one.")
    if args.nbest is not None and args.src is None:
        raise errors.UsageError("--nbest: wants --src, the file of the sources that it counts.")
    if args.nbest is None and (args.src is None) != (args.tgt is None):
        raise errors.UsageError(
            "--src and --tgt: give both, or neither for pairs from stdin with a tab between."
        )
    if args.format == "moses":
        if args.nbest is None:
            raise errors.UsageError("--format moses: wants --nbest, the list to write again.")
        if args.tokens:
            raise errors.UsageError("--tokens: has no place in moses format. Take tsv or jsonl.")
    for path in (args.src, args.tgt, args.nbest):
        if path is not None:
            files.check_readable(path)


def _build(args: argparse.Namespace) -> tuple[scorer.Scorer, tuple[str, ...]]:
    """Returns the scorer that the command line describes, and the target pieces by id."""
    loading.set_up_threads(args.threads)
    paths = loading.find_model(args.model)
    loaded = loading.load_all(
        paths,
        device=args.device or "auto",
        precision=args.precision,
        shortlist=False,
        shares=args.ensemble_weights,
    )
    flags = {"length_penalty": args.length_penalty, "batch_tokens": args.batch_tokens}
    decoding = config_loading.apply_decoding_flags(loaded.config.decoding, flags)
    texts = loaded.texts.towards(args.tgt_lang)
    texts.tags()
    machine = scorer.Scorer(loaded.model, texts, decoding, loaded.arithmetic)
    return machine, loaded.texts.tgt.vocab.pieces


def _check_lengths(src: str, tgt: str) -> None:
    """Refuses files of different lengths before anything is scored.

    What can be read only once, such as a named pipe, is left to `_paired`.

    Raises:
        errors.DataError: one has more lines.
    """
    counts = files.line_counts((src, tgt))
    if counts is not None and counts[0] != counts[1]:
        raise _unequal(src, tgt, *counts)


def _paired(src: str, tgt: str, counter: files.DecodeCounter) -> Iterator[Pair]:
    """Yields line n of one file with line n of the other.

    Raises:
        errors.DataError: one ends before the other.
    """
    sides = files.read_lines(src, counter), files.read_lines(tgt, counter)
    for number, (src_line, tgt_line) in enumerate(itertools.zip_longest(*sides)):
        if src_line is None or tgt_line is None:
            longer = sides[0] if tgt_line is None else sides[1]
            more = number + 1 + sum(1 for _ in longer)
            counts = (more, number) if tgt_line is None else (number, more)
            raise _unequal(src, tgt, *counts)
        yield Pair(src_line, tgt_line)


def _unequal(src: str, tgt: str, num_src: int, num_tgt: int) -> errors.DataError:
    return errors.DataError(
        f"{tgt}: {num_tgt} lines, but {src} has {num_src}. Each source line wants one target line."
    )


def _listed(
    path: str, sources: list[str], src: str, counter: files.DecodeCounter
) -> Iterator[Pair]:
    """Yields the candidates of an n-best list with their sources.

    Raises:
        errors.DataError: a line is in another format, or counts a source that is not there.
    """
    for row, line in enumerate(files.read_lines(path, counter), start=1):
        entry = nbest.parse(line, f"{path}:{row}")
        if entry.number >= len(sources):
            raise errors.DataError(
                f"{path}:{row}: source {entry.number}, counted from 0, is not there: {src} has "
                f"{len(sources)} lines. Give the file that was translated."
            )
        yield Pair(sources[entry.number], entry.text, entry)


def _from_stdin(counter: files.DecodeCounter) -> Iterator[list[Pair]]:
    """Yields pairs as they arrive; a blank line is a blank pair.

    Raises:
        errors.DataError: a line has no tab, or several.
    """
    reader = lines.LineReader(sys.stdin.buffer)
    rows = itertools.count(1)
    for chunk in reader.chunks(CHUNK_LINES):
        pairs = []
        for line, row in zip(chunk, rows, strict=False):
            fields = line.split("\t") if line.strip() else ["", ""]
            if len(fields) != 2:
                raise errors.DataError(
                    f"stdin:{row}: wants a source and a target with one tab between "
                    f"(given: {len(fields) - 1} tabs). Mend the line, or give --src and --tgt."
                )
            pairs.append(Pair(fields[0], fields[1]))
        yield pairs
    counter.num_invalid += reader.num_invalid


def _chunked(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while chunk := list(itertools.islice(pairs, CHUNK_LINES)):
        yield chunk


def _write_all(
    machine: scorer.Scorer,
    chunks: Iterator[list[Pair]],
    writer: lines.LineWriter,
    written: Callable[[Pair, scorer.PairScore], str],
) -> None:
    for chunk in chunks:
        found = machine.score_outputs([pair.src for pair in chunk], [pair.tgt for pair in chunk])
        writer.write(written(pair, score) for pair, score in zip(chunk, found, strict=True))


def _formatter(
    style: str, pieces: tuple[str, ...] | None
) -> Callable[[Pair, scorer.PairScore], str]:
    """Returns the function that writes a score as a line.

    Args:
        style: one of `reranking_flags.SCORE_FORMATS`.
        pieces: the target vocabulary, to write the tokens with; None to leave them out.
    """
    assert style in reranking_flags.SCORE_FORMATS, "the parser knows the formats"

    def tsv(pair: Pair, found: scorer.PairScore) -> str:
        columns = [f"{found.log_probability:.6f}", f"{found.score:.6f}"]
        if pieces is not None:
            columns.append(" ".join(pieces[token] for token in found.tokens))
            columns.append(" ".join(f"{value:.6f}" for value in found.token_log_probabilities))
        return "\t".join(columns)

    def jsonl(pair: Pair, found: scorer.PairScore) -> str:
        values: dict[str, object] = {} if pair.entry is None else {"number": pair.entry.number}
        values |= {"score": found.score, "log_probability": found.log_probability}
        values["num_tokens"] = found.num_tokens
        if pieces is not None:
            values["tokens"] = [pieces[token] for token in found.tokens]
            values["token_log_probabilities"] = list(found.token_log_probabilities)
        return json.dumps(values, ensure_ascii=False)

    def moses(pair: Pair, found: scorer.PairScore) -> str:
        assert pair.entry is not None, "moses format is for n-best lists"
        entry = pair.entry.with_feature(nbest.LOG_PROBABILITY, found.log_probability)
        return dataclasses.replace(entry, score=f"{found.score:.6f}").line()

    return {"tsv": tsv, "jsonl": jsonl, "moses": moses}[style]
