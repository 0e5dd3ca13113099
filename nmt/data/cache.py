"""The token cache: flat files that grow block by block, and a journal that says how far they go.

CACHE/
    src.ids    tgt.ids          uint16 or int32, all sentences behind one another, without BOS and EOS
    src.begins tgt.begins       int64 [P + 1], where each begins, and the end
    src.text   src.text_begins  UTF-8 and where each text begins; like tgt, only for subword sampling
    links.ids  links.begins     int32 pairs of aligned pieces and where those of each sentence pair begin;
                                only for guided alignment (see `link`)
    journal.jsonl               one line for each block, written when its data has left the process
    .lock                       held by the process that fills

A process that dies leaves a good beginning: what stands behind the last good line of the journal is
cut off, and filling goes on from there. This module knows bytes only, and no torch.
"""

import array
import contextlib
import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from nmt import errors
from nmt.data import filters, readers
from nmt.runtime import files, locations, locks

FORMAT = 1
JOURNAL = "journal.jsonl"
SIDES: tuple[readers.Side, ...] = ("src", "tgt")

IdType = Literal["uint16", "int32"]
TYPE_CODES = {"uint16": "H", "int32": "i", "int64": "q", "uint8": "B"}
SMALL_VOCAB = 1 << 16  # pieces whose ids take two bytes


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which files a cache has.

    Attributes:
        id_type: type of the ids of both sides.
        has_text: whether the texts are kept beside the ids.
        has_links: whether the aligned pieces are kept, too.
    """

    id_type: IdType
    has_text: bool
    has_links: bool = False

    @classmethod
    def fitting(cls, num_pieces: int, *, has_text: bool, has_links: bool = False) -> "Layout":
        """Returns the smallest layout for a vocabulary.

        Args:
            num_pieces: of the larger vocabulary.
            has_text: whether the texts are kept beside the ids.
            has_links: whether the aligned pieces are kept, too.
        """
        id_type: IdType = "uint16" if num_pieces <= SMALL_VOCAB else "int32"
        return cls(id_type, has_text, has_links)

    @property
    def types(self) -> dict[str, str]:
        """The type of the numbers in each file, by the file's name."""
        found: dict[str, str] = {}
        for side in SIDES:
            found |= {f"{side}.ids": str(self.id_type), f"{side}.begins": "int64"}
            if self.has_text:
                found |= {f"{side}.text": "uint8", f"{side}.text_begins": "int64"}
        if self.has_links:
            found |= {"links.ids": "int32", "links.begins": "int64"}
        return found

    def key(self) -> dict[str, Any]:
        """Returns what a fingerprint depends on; what is not there leaves it as it was without."""
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if name != "has_links" or value}


# Pieces of a sentence that links can tell apart.
MAX_LINKED = 1 << 15


def link(src_piece: int, tgt_piece: int) -> int:
    """Returns two aligned pieces, by their places in their sentences, as one number below 2**31."""
    return tgt_piece << 16 | src_piece


def moved(number: int, num_pieces: int) -> int:
    """Returns a link whose source piece stands so many pieces further behind."""
    return number + num_pieces


@dataclasses.dataclass(frozen=True)
class Block:
    """How far the cache goes: one line of the journal. All but `crcs` count from the beginning.

    Attributes:
        entry: the corpus entry that the block belongs to.
        num_read: pairs read of that entry, dropped ones included.
        num_pairs: pairs kept, of all entries so far.
        characters: read of all entries so far, both sides.
        counts: what the filters did to that entry, as `FilterCounts`.
        invalid: lines of that entry that were not valid UTF-8, by file.
        sizes: bytes of each file behind this block.
        crcs: CRC-32 of what this block added to each file.
        ends_entry: whether it is the last of its entry.
        is_complete: whether the cache ends here.
    """

    entry: int = 0
    num_read: int = 0
    num_pairs: int = 0
    characters: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    invalid: dict[str, int] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    crcs: dict[str, int] = dataclasses.field(default_factory=dict)
    ends_entry: bool = False
    is_complete: bool = False

    def filter_counts(self) -> filters.FilterCounts:
        """Returns what the filters did to the entry so far."""
        return filters.FilterCounts(**self.counts)

    def line(self) -> bytes:
        """Returns the journal's line, which carries a checksum of its own."""
        text = json.dumps(dataclasses.asdict(self)).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)

    @classmethod
    def parse(cls, line: bytes) -> "Block | None":
        """Returns the block of a line, or None for one that is torn or altered."""
        checksum, _, text = line.removesuffix(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def read_journal(folder: Path, offset: int = 0) -> tuple[list[Block], int]:
    """Returns the good blocks from an offset on, and the offset behind them.

    Args:
        folder: of the cache; without a journal there are no blocks.
        offset: in bytes, as returned before.
    """
    found = []
    try:
        with (folder / JOURNAL).open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                block = Block.parse(line)
                if block is None:
                    break
                found.append(block)
                offset += len(line)
    except FileNotFoundError:
        pass
    return found, offset


def is_intact(folder: Path, layout: Layout, blocks: Sequence[Block]) -> bool:
    """Returns whether the files hold what the journal says, by size and checksum."""
    for name in layout.types:
        try:
            with (folder / name).open("rb") as stream:
                begin = 0
                for block in blocks:
                    end = block.sizes.get(name, -1)
                    content = stream.read(max(end - begin, 0))
                    if len(content) != end - begin or zlib.crc32(content) != block.crcs.get(name):
                        return False
                    begin = end
        except OSError:
            return False
    return True


def remove_torn(folder: Path, layout: Layout) -> None:
    """Removes the files of a torn cache, once nobody fills it; who has mapped them keeps what he has.

    Raises:
        errors.FileError: a file cannot be removed.
    """
    with locks.exclusive(folder):
        blocks, _ = read_journal(folder)
        if blocks and is_intact(folder, layout, blocks):
            return  # another run, for which this one waited, has made it again
        try:
            for path in sorted(folder.iterdir()):
                # The lock stays: who waits for it waits for this very file.
                if path.name != locks.NAME:
                    path.unlink()
        except OSError as error:
            raise errors.FileError(
                f"{folder}: cannot be cleared ({error.strerror}). Remove the folder."
            ) from error


class Writer:
    """Appends blocks to a cache that nobody else fills; use as a context."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Opens a cache and cuts off what stands behind the last good line of its journal.

        Args:
            folder: of the cache; it is there, and locked by the caller.
            layout: which files it has.
        """
        blocks, offset = read_journal(folder)
        self.last = blocks[-1] if blocks else Block()
        self._layout = layout
        self._new: dict[str, array.array[int]] = {}
        self._streams: dict[str, BinaryIO] = {}
        with contextlib.ExitStack() as stack:
            ends = {name: self.last.sizes.get(name, 0) for name in layout.types}
            for name, size in {**ends, JOURNAL: offset}.items():
                stream = stack.enter_context((folder / name).open("ab"))
                stream.truncate(size)
                self._streams[name] = stream
            self._open = stack.pop_all()
        self._clear()
        if not blocks:
            for name in layout.types:
                if name.endswith("begins"):
                    self._new[name].append(0)
        # Where the next sentence begins, in items.
        self._ends = {
            name: size // array.array(TYPE_CODES[layout.types[name]]).itemsize
            for name, size in ends.items()
        }

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def add(self, side: readers.Side, ids: Sequence[int], text: str) -> None:
        """Adds a sentence of one side to the block under way."""
        self._extend(f"{side}.ids", f"{side}.begins", ids)
        if self._layout.has_text:
            self._extend(
                f"{side}.text", f"{side}.text_begins", text.encode("utf-8", errors="replace")
            )

    def add_links(self, links: Sequence[int]) -> None:
        """Adds the aligned pieces of a pair to the block under way; see `link`."""
        self._extend("links.ids", "links.begins", links)

    def _extend(self, content: str, begins: str, items: Sequence[int]) -> None:
        self._new[content].extend(items)
        self._ends[content] += len(items)
        self._new[begins].append(self._ends[content])

    def finish_block(self, **fields: Any) -> None:
        """Writes the block under way, and then its line.

        Args:
            **fields: those of `Block` but for sizes and checksums.
        """
        sizes, crcs = {}, {}
        for name, items in self._new.items():
            content = items.tobytes()
            self._streams[name].write(content)
            self._streams[name].flush()
            sizes[name] = self.last.sizes.get(name, 0) + len(content)
            crcs[name] = zlib.crc32(content)
        self.last = Block(**fields, sizes=sizes, crcs=crcs)
        self._streams[JOURNAL].write(self.last.line())
        self._streams[JOURNAL].flush()
        self._clear()

    def _clear(self) -> None:
        self._new = {
            name: array.array(TYPE_CODES[kind]) for name, kind in self._layout.types.items()
        }


def key_of(
    entries: Sequence[readers.Entry],
    tokenizer_dir: Path,
    pair_filter: filters.PairFilter,
    layout: Layout,
) -> str:
    """Returns a SHA-256 over all that the cache depends on; it is the fingerprint of the corpus.

    Files count as they lie on disk, so that they are read at the disk's speed.

    Args:
        entries: of the training corpus.
        tokenizer_dir: `tokenizer/` of the run.
        pair_filter: which pairs are kept.
        layout: which files the cache has.

    Raises:
        errors.FileError: a file cannot be read.
    """
    contents = []
    for entry in entries:
        found = readers.files_by_kind(entry)
        if links := readers.alignment_files(entry):
            found["alignments"] = links
        content: list[Any] = [
            [kind, [locations.fingerprint(path) for path in paths]] for kind, paths in found.items()
        ]
        if tags := getattr(entry, "tags", ()):
            content.append(["tags", list(tags)])
        contents.append(content)
    models = {
        path.name: files.sha256_of(path)
        for path in sorted(tokenizer_dir.iterdir())
        if path.suffix in {".model", ".json"}
    }
    parts = [FORMAT, contents, models, dataclasses.asdict(pair_filter), layout.key()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def remove_others(parent: Path, keep: str) -> None:
    """Removes the caches of other corpora or tokenizers from a folder that belongs to one run.

    Args:
        parent: `cache/` of the run.
        keep: the name of the folder that stays.
    """
    if not parent.is_dir():
        return
    for folder in sorted(parent.iterdir()):
        if folder.name != keep and (folder / locks.NAME).exists():
            files.remove_tree(folder)


def explained(folder: Path, error: OSError) -> errors.FileError:
    """Returns an error of writing a cache in one line."""
    return errors.FileError(
        f"{folder}: the token cache cannot be written ({error.strerror or error}). "
        "Free space there, or name another folder in data.cache_dir. The same command goes on."
    )


def disk_size(folder: Path) -> int:
    """Returns the bytes of a cache's files."""
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
