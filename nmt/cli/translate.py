"""`nmt translate`: lines in, lines out."""

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from nmt import errors
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.evaluation import mbr
from nmt.inference import loading, sharing, translator
from nmt.runtime import device as devices
from nmt.runtime import distributed, files, lines

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
)


def run(args: argparse.Namespace) -> int:
    """Translates a file or stdin, on as many processes as torchrun started.

    Args:
        args: `model`, `ensemble_weights`, `input`, `output`, the decoding flags, `nbest`, `format`,
            the flags of `--mbr`, `batch_size`, `device`, `precision`, `threads`.

    Returns:
        0.
    """
    start = distributed.started()
    with distributed.joined(start, remedy=distributed.RESTART) as group:
        if not group.is_main:
            # What all would say alike, rank 0 says; `main` puts the level back.
            logging.getLogger("nmt").setLevel(logging.ERROR)
        machine = group.together(lambda: _prepared(args, start))
        style = args.format or "text"
        if not group.is_main:
            _share(group, machine, None, None, style)
        elif args.input is None:
            _translate(group, machine, sys.stdin.buffer, args.output, style)
        else:
            with files.open_read(Path(args.input)) as stream:
                _translate(group, machine, stream, args.output, style)
    return 0


def _prepared(args: argparse.Namespace, start: distributed.Start) -> translator.Translator:
    """Returns the translator of this process, after a look at the options and the input."""
    if args.nbest is not None and args.nbest < 1:
        raise errors.UsageError(f"--nbest: wants at least 1 (given: {args.nbest}).")
    if args.batch_size is not None and args.batch_size < 1:
        raise errors.UsageError(f"--batch-size: wants at least 1 (given: {args.batch_size}).")
    if args.input is not None and start.rank == 0:
        files.check_readable(Path(args.input))
    if start.size > 1:
        device = devices.resolve(args.device or "auto")
        args.device = str(devices.of_rank(device, start.local_rank, start.size))
    return build_translator(args, num_best=args.nbest or 1)


def build_translator(args: argparse.Namespace, *, num_best: int = 1) -> translator.Translator:
    """Returns the translator that the command line describes.

    Args:
        args: `model`, `device`, `precision`, `threads`, `batch_size` and the decoding flags.
        num_best: translations per line.
    """
    risk = _risk(args)
    loading.set_up_threads(args.threads)
    paths = loading.find_model(args.model)
    loaded = loading.load_all(
        paths,
        device=args.device or "auto",
        precision=args.precision,
        shares=args.ensemble_weights,
    )
    return translator.Translator(
        loaded.model,
        loaded.texts,
        decoding_of(args, loaded.config),
        loaded.arithmetic,
        num_best=num_best,
        batch_sentences=args.batch_size,
        risk=risk,
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
    given = {name: getattr(args, name) for name in DECODING_FLAGS}
    return config_loading.apply_decoding_flags(
        config.decoding, {name: value for name, value in given.items() if value is not None}
    )


def _translate(
    group: distributed.Group,
    machine: translator.Translator,
    stream: BinaryIO,
    output: str | None,
    style: str,
) -> None:
    """Does the part of the process that reads and writes."""
    reader = lines.LineReader(stream)
    if output is None:
        num_cut, num_split = _share(
            group, machine, reader, lines.LineWriter(sys.stdout.buffer), style
        )
    else:
        # Whole or not at all: a reader of the file never sees half a translation.
        with files.atomic_write(Path(output)) as target:
            num_cut, num_split = _share(group, machine, reader, lines.LineWriter(target), style)
    if reader.num_invalid:
        logger.warning(
            "lines that were not valid UTF-8, whose bad bytes were replaced: %d", reader.num_invalid
        )
    if num_cut:
        logger.warning("lines that were longer than the model reads and were cut: %d", num_cut)
    if num_split:
        logger.warning("lines that were longer than the model reads and were split: %d", num_split)


def _share(
    group: distributed.Group,
    machine: translator.Translator,
    reader: lines.LineReader | None,
    writer: lines.LineWriter | None,
    style: str,
) -> tuple[int, int]:
    """Translates what the reader of rank 0 has; returns how many lines all ranks have cut and split."""

    def work(own: Sequence[str], numbers: Sequence[int]) -> list[list[str]]:
        return [
            list(_formatted(found, number, style))
            for number, found in zip(numbers, machine.translate(own), strict=True)
        ]

    def write(ready: Iterable[str]) -> None:
        assert writer is not None, "rank 0 writes"
        writer.write(ready)

    chunks = iter(()) if reader is None else reader.chunks(CHUNK_LINES * group.size)
    sharing.run(group, chunks, work, write)
    counts = group.gather(lambda: [machine.num_cut, machine.num_split])
    return sum(cut for cut, _ in counts), sum(split for _, split in counts)


def _formatted(
    translations: Sequence[translator.Translation], number: int, style: str
) -> Iterator[str]:
    """Yields output lines; moses is `number ||| text ||| features ||| score`, counted from 0."""
    for found in translations:
        if style == "moses":
            features = f"logprob={found.log_probability:.6f}"
            if found.utility is not None:
                features += f" utility={found.utility:.6f}"
            yield f"{number} ||| {found.text} ||| {features} ||| {found.score:.6f}"
        else:
            yield found.text
