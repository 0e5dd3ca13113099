"""`nmt translate`: lines in, lines out."""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from nmt import errors
from nmt.cli import decoding_flags, engines, translate_formats
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.evaluation import mbr
from nmt.inference import loading, sharing, translator
from nmt.runtime import connections, distributed, files, lines
from nmt.runtime import device as devices
from nmt.text import glossary

logger = logging.getLogger(__name__)

# Lines that are sorted and batched together: enough to fill batches, few enough to stream.
CHUNK_LINES = 4096

# Command-line flags that stand for a key under `decoding`.
DECODING_FLAGS = (
    "beam_size",
    "length_penalty",
    "min_length",
    "max_length",
    "patience",
    "exact_stop",
    "long",
    "batch_tokens",
    *decoding_flags.CONTROL,
    *decoding_flags.EXPLAINING,
)


def run(args: argparse.Namespace) -> int:
    """Translates a file or stdin, on as many processes as torchrun started.

    Args:
        args: `model`, `ensemble_weights`, `input`, `output`, the decoding flags, `nbest`, `format`,
            the flags of `--mbr`, `batch_size`, `engine`, `device`, `precision`, `threads`,
            `shortlist`, `tgt_lang`, and what `decoding_flags.add_explaining` adds.

    Returns:
        0.
    """
    start = distributed.started()
    with distributed.joined(start, remedy=connections.RESTART) as group:
        if not group.is_main:
            # What all would say alike, rank 0 says; `main` puts the level back.
            logging.getLogger("nmt").setLevel(logging.ERROR)
        answerer = group.together(lambda: _prepared(args, start))
        if not group.is_main:
            _share(group, answerer, iter(()), None)
        elif args.input is None:
            _translate(args, group, answerer, sys.stdin.buffer)
        else:
            with files.open_read(Path(args.input)) as stream:
                _translate(args, group, answerer, stream)
    return 0


def _prepared(args: argparse.Namespace, start: distributed.Start) -> translate_formats.Answerer:
    """Returns what translates in this process, after a look at the options and the input."""
    if args.nbest is not None and args.nbest < 1:
        raise errors.UsageError(f"--nbest: wants at least 1 (given: {args.nbest}).")
    check_batches(args)
    if start.rank == 0:
        for path in (args.input, args.constraints):
            if path is not None:
                files.check_readable(Path(path))
        if args.input is not None and args.constraints is not None:
            translate_formats.check_lengths(args.input, args.constraints)
    style = args.format or "text"
    _check_style(args, style)
    _check_shortlist(args)
    keep = tuple(args.keep or ())
    terms = glossary.Glossary({}, keep) if keep else None
    if args.glossary is not None:
        terms = glossary.Glossary.read(Path(args.glossary), keep)
    if start.size > 1:
        device = devices.resolve(args.device or "auto")
        args.device = str(devices.of_rank(device, start.local_rank, start.size))
    machine: engines.Machine | None
    if args.engine == "ctranslate2":
        machine = engines.build_ctranslate2(args, num_best=args.nbest or 1)
    else:
        machine = engines.build_chosen(args)
    if machine is None:
        machine = build_translator(
            args,
            num_best=args.nbest or 1,
            is_named_per_line=style == "jsonl",
            with_scores=style != "text" or args.return_scores,
        )
    default = dataclasses.replace(
        machine.default, target_prefix=args.target_prefix or "", avoid=tuple(args.avoid or ())
    )
    machine.check(default, with_constraints=terms is not None or args.constraints is not None)
    return translate_formats.Answerer(
        machine,
        default,
        translate_formats.FORMATS[style],
        with_scores=args.return_scores,
        glossary=terms,
    )


def check_batches(args: argparse.Namespace) -> None:
    """Refuses impossible batches.

    Args:
        args: `batch_size` and `batch_tokens`.

    Raises:
        errors.UsageError: a value is wrong, or would be ignored.
    """
    if args.batch_size is not None and args.batch_size < 1:
        raise errors.UsageError(f"--batch-size: wants at least 1 (given: {args.batch_size}).")
    if args.batch_size is not None and args.batch_tokens is not None:
        raise errors.UsageError("--batch-tokens: would be ignored beside --batch-size. Give one.")


def _check_style(args: argparse.Namespace, style: str) -> None:
    """Refuses flags that a format makes meaningless."""
    if style != "text" and args.return_scores:
        raise errors.UsageError(
            f"--return-scores: would be ignored, since {style} always has scores. Remove it."
        )
    if style == "jsonl" and args.constraints is not None:
        raise errors.UsageError(
            "--constraints: does not go with --format jsonl. Put the phrases into the field "
            "`constraints` of each object."
        )


def _check_shortlist(args: argparse.Namespace) -> None:
    """Refuses a shortlist that no line would be searched in."""
    for name in ("avoid", "target_prefix"):
        if args.shortlist and getattr(args, name):
            raise errors.UsageError(
                f"--shortlist: would be ignored beside --{name.replace('_', '-')}, with which all "
                "lines are searched in the whole vocabulary. Leave it out."
            )


def build_translator(
    args: argparse.Namespace,
    *,
    num_best: int = 1,
    is_named_per_line: bool = False,
    with_scores: bool = False,
) -> translator.Translator:
    """Returns the translator that the command line describes.

    Args:
        args: `model`, `ensemble_weights`, `device`, `precision`, `threads`, `batch_size`,
            `shortlist`, `tgt_lang`, the decoding flags and those of `--mbr`.
        num_best: translations per line.
        is_named_per_line: whether lines may name their target language themselves.
        with_scores: whether the scores of translations are shown.

    Raises:
        errors.UsageError: the model has no such target language, or several where none is named.
    """
    risk = _risk(args)
    loading.set_up_threads(args.threads)
    paths = loading.find_model(args.model)
    loaded = loading.load_all(
        paths,
        device=args.device or "auto",
        precision=args.precision,
        shortlist=args.shortlist,
        shares=args.ensemble_weights,
    )
    texts = loaded.texts.towards(args.tgt_lang)
    if not is_named_per_line:
        texts.tags()
    return translator.Translator(
        loaded.model,
        texts,
        decoding_of(args, loaded.config),
        loaded.arithmetic,
        num_best=num_best,
        batch_sentences=args.batch_size,
        shortlist=loaded.shortlist,
        risk=risk,
        with_scores=with_scores,
    )


def _risk(args: argparse.Namespace) -> mbr.Settings | None:
    """Returns how minimum Bayes risk chooses; None where it does not.

    Raises:
        errors.UsageError: an option of it would be ignored.
    """
    if args.mbr is None:
        for name in ("mbr_candidates", "mbr_weights", "mbr_exact"):
            if getattr(args, name):
                flag = "--" + name.replace("_", "-")
                raise errors.UsageError(f"{flag}: would be ignored without --mbr. Give both.")
        return None
    return mbr.Settings(
        metric=args.mbr,
        weights=args.mbr_weights or "uniform",
        is_exact=args.mbr_exact,
        num_candidates=args.mbr_candidates,
    )


def decoding_of(args: argparse.Namespace, config: schema.Config) -> schema.DecodingConfig:
    """Returns the decoding settings of the configuration, with the command line's over them."""
    # `nmt evaluate` has no use for some of them.
    given = {name: getattr(args, name, None) for name in DECODING_FLAGS}
    return config_loading.apply_decoding_flags(
        config.decoding, {name: value for name, value in given.items() if value is not None}
    )


def _translate(
    args: argparse.Namespace,
    group: distributed.Group,
    answerer: translate_formats.Answerer,
    stream: BinaryIO,
) -> None:
    """Does the part of the process that reads and writes."""
    reader = lines.LineReader(stream)
    counter = files.DecodeCounter()
    phrases = (
        None if args.constraints is None else files.read_lines(Path(args.constraints), counter)
    )
    items = translate_formats.with_constraints(
        reader.chunks(CHUNK_LINES * group.size), phrases, str(args.constraints)
    )
    if args.output is None:
        answers = translate_formats.Answers(lines.LineWriter(sys.stdout.buffer))
        num_cut, num_split = _share(group, answerer, items, answers)
    else:
        # Whole or not at all: a reader of the file never sees half a translation.
        with files.atomic_write(Path(args.output)) as target:
            answers = translate_formats.Answers(lines.LineWriter(target))
            num_cut, num_split = _share(group, answerer, items, answers)
    for text, count in (
        ("lines that were not valid UTF-8, whose bad bytes were replaced", reader.num_invalid),
        ("lines of --constraints that were not valid UTF-8", counter.num_invalid),
        ("lines that were longer than the model reads and were cut", num_cut),
        ("lines that were longer than the model reads and were split", num_split),
        ("lines that could not be translated", answers.num_errors),
    ):
        if count:
            logger.warning("%s: %d", text, count)


def _share(
    group: distributed.Group,
    answerer: translate_formats.Answerer,
    items: Iterator[list[translate_formats.Item]],
    answers: translate_formats.Answers | None,
) -> tuple[int, int]:
    """Translates what rank 0 reads; returns how many lines all ranks have cut and split."""

    def write(ready: Sequence[translate_formats.Answer]) -> None:
        assert answers is not None, "rank 0 writes"
        answers.write(ready)

    sharing.run(group, items, answerer.answer, write)
    machine = answerer.machine
    counts = group.gather(lambda: [machine.num_cut, machine.num_split])
    return sum(cut for cut, _ in counts), sum(split for _, split in counts)
