"""Fills the token cache: in this process, or in one of its own while training already streams.

The process gets its work as one JSON line on stdin, reports a failure as one JSON line on stdout, and
ends when its stdin does, which is when its trainer has ended, in whatever way. It imports no torch.
"""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.data import cache, filters, linking, readers
from nmt.runtime import files, locks
from nmt.text import tokenizer

# Pairs that are tokenised in one call and written as one block: enough for the tokenizer's threads,
# little enough memory, and about a sixth of a second of work that a kill loses.
BLOCK_PAIRS = 4096

# The path of this process, then this module: nothing of the working directory is imported.
_PROGRAM = """\
import json, sys
work = json.loads(sys.stdin.buffer.readline())
sys.path[:] = work["path"]
from nmt.data import filler
filler.run(work["work"])
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A corpus entry as plain data; see `readers.Entry`."""

    src: str | None = None
    tgt: str | None = None
    tsv: str | None = None
    jsonl: str | None = None
    alignments: str | None = None
    mono: str | None = None
    tags: tuple[str, ...] = ()  # pieces that its sources begin with


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be tokenised, and where it goes.

    Attributes:
        folder: of the cache.
        entries: of the training corpus.
        tokenizer_dir: `tokenizer/` of the run.
        pair_filter: which pairs are kept.
        layout: which files the cache has.
    """

    folder: Path
    entries: tuple[Entry, ...]
    tokenizer_dir: Path
    pair_filter: filters.PairFilter
    layout: cache.Layout

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for another process."""
        plain = dataclasses.asdict(self)
        return {**plain, "folder": str(self.folder), "tokenizer_dir": str(self.tokenizer_dir)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Work":
        """Returns what `to_json` was called on."""
        return cls(
            Path(values["folder"]),
            tuple(Entry(**{**entry, "tags": tuple(entry["tags"])}) for entry in values["entries"]),
            Path(values["tokenizer_dir"]),
            filters.PairFilter(**values["pair_filter"]),
            cache.Layout(**values["layout"]),
        )


def fill(work: Work) -> None:
    """Tokenises what the cache lacks; waits while another process fills it.

    Raises:
        errors.DataError: an entry is malformed, or no pair of it is left.
        errors.FileError: a corpus cannot be read, or the cache not be written.
    """
    files.make_dir(work.folder)
    with locks.exclusive(work.folder):
        try:
            with cache.Writer(work.folder, work.layout) as writer:
                _fill(work, writer)
        except OSError as error:
            raise cache.explained(work.folder, error) from error


def _fill(work: Work, writer: cache.Writer) -> None:
    last = writer.last
    if last.is_complete:
        return
    sides = {side: tokenizer.Tokenizer.load(work.tokenizer_dir, side) for side in cache.SIDES}
    first, num_done = (last.entry + 1, 0) if last.ends_entry else (last.entry, last.num_read)
    for number in range(first, len(work.entries)):
        counts = filters.FilterCounts() if not num_done else last.filter_counts()
        _fill_entry(work, writer, sides, number, counts)
        num_done = 0
    writer.finish_block(
        entry=len(work.entries),
        num_pairs=writer.last.num_pairs,
        characters=writer.last.characters,
        ends_entry=True,
        is_complete=True,
    )


def _fill_entry(
    work: Work,
    writer: cache.Writer,
    tokenizers: dict[readers.Side, tokenizer.Tokenizer],
    number: int,
    counts: filters.FilterCounts,
) -> None:
    """Tokenises an entry from the pair on up to which `counts` has counted."""
    entry = work.entries[number]
    counters = readers.new_counters(entry)
    pairs = readers.iterate_pairs(entry, counters)
    # Lines that were tokenised before are read again, which takes a fraction of the time.
    for _ in itertools.islice(pairs, counts.total):
        pass
    alignments = linking.Alignments(entry, tokenizers, first=counts.total)
    tags = tokenizers["src"].ids_of(entry.tags)
    for chunk, is_last in _chunks(pairs):
        src, tgt = [src for src, _ in chunk], [tgt for _, tgt in chunk]
        src_ids = tokenizers["src"].encode_batch(src)
        tgt_ids = tokenizers["tgt"].encode_batch(tgt)
        before = counts.kept
        for index in range(len(chunk)):
            tagged = [*tags, *src_ids[index]] if src_ids[index] else []
            if work.pair_filter.keeps(tagged, tgt_ids[index], counts):
                writer.add("src", tagged, src[index])
                writer.add("tgt", tgt_ids[index], tgt[index])
                if work.layout.has_links:
                    links = alignments.links(
                        (src[index], tgt[index]), (src_ids[index], tgt_ids[index])
                    )
                    writer.add_links([cache.moved(link, len(tags)) for link in links])
            else:
                alignments.skip()
        if is_last:
            alignments.finish()
        if is_last and not counts.kept:
            raise errors.DataError(
                f"{readers.describe(entry)}: no pair is left "
                f"({counts.describe(work.pair_filter)}). "
                "Check the files, or raise data.max_length and data.max_length_ratio."
            )
        writer.finish_block(
            entry=number,
            num_read=counts.total,
            num_pairs=writer.last.num_pairs + counts.kept - before,
            characters=writer.last.characters + sum(map(len, src)) + sum(map(len, tgt)),
            counts=dataclasses.asdict(counts),
            invalid={str(path): counter.num_invalid for path, counter in counters.items()},
            ends_entry=is_last,
        )


def _chunks(pairs: Iterator[tuple[str, str]]) -> Iterator[tuple[list[tuple[str, str]], bool]]:
    """Yields lists of pairs, each with whether it is the last; that one may be empty."""
    chunk = list(itertools.islice(pairs, BLOCK_PAIRS))
    while len(chunk) == BLOCK_PAIRS:
        following = list(itertools.islice(pairs, BLOCK_PAIRS))
        yield chunk, not following
        if not following:
            return
        chunk = following
    yield chunk, True


def run(values: dict[str, Any]) -> None:
    """Fills a cache as the process of its own that `Filler` starts."""
    # Ctrl-C is for the trainer, which ends this process by its stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    code = 0
    try:
        fill(Work.from_json(values))
    except errors.NMTError as error:
        code = 1
        sys.stdout.write(json.dumps({"kind": type(error).__name__, "text": str(error)}) + "\n")
    sys.stdout.flush()
    # No teardown: the thread above may hold the lock of stdin.
    os._exit(code)


def _end_with_stdin() -> None:
    # Straight from the system, since a buffered stream would be shared with the main thread.
    while os.read(0, 1024):
        pass
    os._exit(1)


class Filler:
    """The process that fills a cache while this one trains."""

    def __init__(self, work: Work) -> None:
        """Starts it."""
        self._process = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Signals from the terminal are the trainer's business.
            start_new_session=True,
        )
        assert self._process.stdin is not None, "it was asked for"
        line = json.dumps(
            {"path": [str(Path(place).resolve()) for place in sys.path], "work": work.to_json()}
        )
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    @property
    def process_id(self) -> int:
        """The number of the process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Returns whether it has done all its work.

        Raises:
            errors.NMTError: it has failed, with the kind and words of its own failure.
            errors.DataError: it was killed.
        """
        code = self._process.poll()
        if not code:
            return code is not None
        assert self._process.stdout is not None, "it was asked for"
        try:
            failure = json.loads(self._process.stdout.read())
            kind = getattr(errors, failure["kind"])
        except (ValueError, KeyError, TypeError, AttributeError):
            cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            raise errors.DataError(
                f"data.train: the process that tokenises the corpus has ended early ({cause}). "
                "What is tokenised is kept. The same command goes on from there."
            ) from None
        raise kind(failure["text"])

    def close(self) -> None:
        """Ends the process, if it has not ended yet; what it has tokenised stays."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.kill()
        self._process.wait()
