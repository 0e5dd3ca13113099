"""`nmt translate`: lines in, lines out."""

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import BinaryIO

from nmt import errors
from nmt.cli import decoding_flags, engines, translate_formats
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.inference import loading, translator
from nmt.runtime import files, lines
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
    "batch_tokens",
    *decoding_flags.CONTROL,
    *decoding_flags.EXPLAINING,
)


def run(args: argparse.Namespace) -> int:
    """Translates a file or stdin.

    Args:
        args: `model`, `input`, `output`, the decoding flags, `nbest`, `format`, `batch_size`,
            `engine`, `device`, `precision`, `threads`, `shortlist`, and what
            `decoding_flags.add_explaining` adds.

    Returns:
        0.
    """
    if args.nbest is not None and args.nbest < 1:
        raise errors.UsageError(f"--nbest: wants at least 1 (given: {args.nbest}).")
    if args.batch_size is not None and args.batch_size < 1:
        raise errors.UsageError(f"--batch-size: wants at least 1 (given: {args.batch_size}).")
    if args.input is not None:
        files.check_readable(Path(args.input))
    style = args.format or "text"
    _check_style(args, style)
    terms = None if args.glossary is None else glossary.Glossary.read(Path(args.glossary))
    phrases = None if args.constraints is None else files.read_lines(Path(args.constraints))
    machine: engines.Machine
    if args.engine == "ctranslate2":
        machine = engines.build_ctranslate2(args, num_best=args.nbest or 1)
    else:
        machine = build_translator(args, num_best=args.nbest or 1)
    default = dataclasses.replace(
        machine.default, target_prefix=args.target_prefix or "", avoid=tuple(args.avoid or ())
    )
    machine.check(default, with_constraints=terms is not None or phrases is not None)
    answer = translate_formats.Answerer(
        machine,
        default,
        translate_formats.FORMATS[style],
        with_scores=args.return_scores,
        glossary=terms,
        constraints=phrases,
        constraints_place=str(args.constraints),
    )
    if args.input is not None:
        with files.open_read(Path(args.input)) as stream:
            _translate(answer, stream, args.output)
    else:
        _translate(answer, sys.stdin.buffer, args.output)
    return 0


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


def build_translator(args: argparse.Namespace, *, num_best: int = 1) -> translator.Translator:
    """Returns the translator that the command line describes.

    Args:
        args: `model`, `device`, `precision`, `threads`, `batch_size`, `shortlist` and the decoding
            flags.
        num_best: translations per line.
    """
    loading.set_up_threads(args.threads)
    paths = loading.find_model(args.model)
    loaded = loading.load_all(
        paths,
        device=args.device or "auto",
        precision=args.precision,
        shortlist=args.shortlist,
    )
    return translator.Translator(
        loaded.model,
        loaded.texts,
        decoding_of(args, loaded.config),
        loaded.arithmetic,
        num_best=num_best,
        batch_sentences=args.batch_size,
        shortlist=loaded.shortlist,
    )


def decoding_of(args: argparse.Namespace, config: schema.Config) -> schema.DecodingConfig:
    """Returns the decoding settings of the configuration, with the command line's over them."""
    # `nmt evaluate` has no use for some of them.
    given = {name: getattr(args, name, None) for name in DECODING_FLAGS}
    return config_loading.apply_decoding_flags(
        config.decoding, {name: value for name, value in given.items() if value is not None}
    )


def _translate(answer: translate_formats.Answerer, stream: BinaryIO, output: str | None) -> None:
    reader = lines.LineReader(stream)
    if output is None:
        _write_all(answer, reader, lines.LineWriter(sys.stdout.buffer))
    else:
        # Whole or not at all: a reader of the file never sees half a translation.
        with files.atomic_write(Path(output)) as target:
            _write_all(answer, reader, lines.LineWriter(target))
    for text, count in (
        ("lines that were not valid UTF-8, whose bad bytes were replaced", reader.num_invalid),
        ("lines that were longer than the model reads and were cut", answer.machine.num_cut),
        ("lines that could not be translated", answer.num_errors),
    ):
        if count:
            logger.warning("%s: %d", text, count)


def _write_all(
    answer: translate_formats.Answerer, reader: lines.LineReader, writer: lines.LineWriter
) -> None:
    for chunk in reader.chunks(CHUNK_LINES):
        writer.write(answer.answer(chunk))
    answer.finish()
