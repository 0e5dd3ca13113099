"""The pairs of a corpus as text: empty, copied and repeated ones, and those of the test sets.

Memory and time are bounded: of a large corpus, one pair in so many is looked at, chosen by a checksum
of its source side, so that all copies of a sentence are in or out and the share of repeated pairs
stays what it is. Pairs whose source may be in a held-out set are looked at in any case, so that the
overlap is exact.
"""

import array
import codecs
import dataclasses
import hashlib
import json
import math
import statistics
import zlib
from collections.abc import Iterable, Iterator, Sequence

import torch

from nmt import errors
from nmt.data import findings, linking, readers
from nmt.runtime import files

# Training pairs that are compared with one another at most: three numbers of 8 bytes for each.
MAX_COMPARED = 1_000_000

# Pairs whose text is kept, at even distances, to try tokenizer and model on.
MAX_KEPT = 100_000

# A repeated source with another target is no fault of its own: some corpora have several targets.
REPEATED_SOURCE_SHARE = 0.1

# Lengths of translations go together (above 0.7 in parallel text), those of other sentences do not.
MIN_CORRELATION, MIN_CORRELATED = 0.2, 200


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair of the sample.

    Attributes:
        line: where it stands in its corpus, counted from 1.
        src: source text.
        tgt: target text.
    """

    line: int
    src: str
    tgt: str


@dataclasses.dataclass
class PairSurvey:
    """What one corpus holds, or the part of it that was compared.

    Attributes:
        place: its files.
        num_pairs: all its lines that are pairs.
        num_compared: pairs that were looked at for all but their form.
        malformed: lines that are no pair, and the first of them.
        empty: compared pairs of which a side is empty, and the first.
        copied: compared pairs whose sides are the same text, and the first.
        kept: an even sample of the pairs that are not empty.
        src_hashes: 64-bit hashes of compared sources.
        pair_hashes: 64-bit hashes of compared pairs.
        lines: where these stand.
    """

    place: str
    num_pairs: int = 0
    num_compared: int = 0
    malformed: "Tally" = dataclasses.field(default_factory=lambda: Tally())
    empty: "Tally" = dataclasses.field(default_factory=lambda: Tally())
    copied: "Tally" = dataclasses.field(default_factory=lambda: Tally())
    kept: list[Pair] = dataclasses.field(default_factory=list)
    src_hashes: "array.array[int]" = dataclasses.field(default_factory=lambda: array.array("q"))
    pair_hashes: "array.array[int]" = dataclasses.field(default_factory=lambda: array.array("q"))
    lines: "array.array[int]" = dataclasses.field(default_factory=lambda: array.array("q"))

    def faults(self) -> list[findings.Finding]:
        """Returns what is wrong with the pairs."""
        found = []
        if self.malformed.count:
            what, advice = "lines that are no pair", "Mend or remove them; `nmt train` stops there."
            found.append(
                findings.Finding(
                    "error",
                    self.place,
                    what,
                    advice,
                    self.malformed.count,
                    line=self.malformed.line,
                )
            )
        for tally, what, advice in (
            (
                self.empty,
                "pairs with an empty side, which are no translations",
                "Remove them; many are a sign that lines are missing.",
            ),
            (
                self.copied,
                "pairs whose target is a copy of the source",
                "Remove them: many of them teach the model to copy.",
            ),
        ):
            if tally.count:
                found.append(self._finding(tally, what, advice))
        return [*found, *self._repeated(), *self._unrelated()]

    def _finding(
        self, tally: "Tally", what: str, advice: str, limit: float = findings.WARNING_SHARE
    ) -> findings.Finding:
        total = self.num_compared
        severity = findings.by_share(tally.count, total, limit=limit)
        return findings.Finding(
            severity, self.place, what, advice, tally.count, total, line=tally.line
        )

    def _repeated(self) -> list[findings.Finding]:
        pairs = torch.tensor(self.pair_hashes, dtype=torch.int64)
        again = repeats(pairs)
        found = []
        if again.any():
            tally = self._tally_of(again)
            advice = "Remove all but one: what comes often is learnt by heart."
            found.append(self._finding(tally, "pairs that stood there before", advice))
        others = torch.zeros_like(again)
        others[~again] = repeats(torch.tensor(self.src_hashes, dtype=torch.int64)[~again])
        if others.any():
            found.append(
                self._finding(
                    self._tally_of(others),
                    "sources that stood there before, with another target",
                    "Wanted where a sentence has several translations; otherwise keep the best.",
                    REPEATED_SOURCE_SHARE,
                )
            )
        return found

    def _tally_of(self, marked: torch.Tensor) -> "Tally":
        return Tally(int(marked.sum()), self.lines[int(marked.nonzero()[0])])

    def _unrelated(self) -> list[findings.Finding]:
        # Logarithms, so that one overlong line does not drown what the others say.
        lengths = [(math.log(len(pair.src)), math.log(len(pair.tgt))) for pair in self.kept]
        if len(lengths) < MIN_CORRELATED:
            return []
        try:
            value = statistics.correlation(*zip(*lengths, strict=True))
        except statistics.StatisticsError:  # all are of one length
            return []
        if value >= MIN_CORRELATION:
            return []
        what = f"lengths of source and target have nothing to do with each other (r = {value:.2f})"
        advice = "Line n has to translate line n: check that no line is missing and files fit."
        return [findings.Finding("warning", self.place, what, advice)]


@dataclasses.dataclass
class Tally:
    """How many pairs had something, and the line of the first."""

    count: int = 0
    line: int | None = None

    def add(self, line: int) -> None:
        """Counts one."""
        self.count += 1
        if self.line is None:
            self.line = line


class HeldOut:
    """A validation or test set, and which of its pairs training has met."""

    def __init__(self, survey: PairSurvey) -> None:
        """Takes the survey of the set, of which all pairs were compared."""
        self._survey = survey
        self._sources, self._pairs = set(survey.src_hashes), set(survey.pair_hashes)
        self._met_sources: set[int] = set()
        self._met_pairs: set[int] = set()

    def meet(self, src_hash: int, pair_hash: int) -> None:
        """Takes a training pair."""
        if src_hash in self._sources:
            self._met_sources.add(src_hash)
            if pair_hash in self._pairs:
                self._met_pairs.add(pair_hash)

    def faults(self) -> list[findings.Finding]:
        """Returns how much of the set is in training; any whole pair is a warning."""
        survey, found = self._survey, []
        whole, half = Tally(), Tally()
        for line, src, pair in zip(
            survey.lines, survey.src_hashes, survey.pair_hashes, strict=True
        ):
            if pair in self._met_pairs:
                whole.add(line)
            elif src in self._met_sources:
                half.add(line)
        total = survey.num_compared
        advice = "Remove them from training: scores on what was trained on say nothing."
        if whole.count:
            what = "pairs that are in training too"
            found.append(
                findings.Finding(
                    "warning", survey.place, what, advice, whole.count, total, line=whole.line
                )
            )
        if half.count:
            what = "sources that are in training too, with another target"
            severity = findings.by_share(half.count, total)
            found.append(
                findings.Finding(
                    severity, survey.place, what, advice, half.count, total, line=half.line
                )
            )
        return found


def survey_pairs(
    entry: readers.Entry,
    *,
    stride: int = 1,
    one_in: int = 1,
    watched: frozenset[int] = frozenset(),
    held_out: Iterable[HeldOut] = (),
) -> PairSurvey:
    """Reads the pairs of a corpus once.

    Args:
        entry: its files, which can be read.
        stride: every so many-th pair is kept.
        one_in: one of so many pairs is compared; see the module.
        watched: checksums of sources that are looked at in any case; see `checksums`.
        held_out: the sets that these are from.
    """
    survey = PairSurvey(readers.describe(entry))
    is_mono = getattr(entry, "mono", None) is not None
    for line, pair in enumerate(_raw_pairs(entry), start=1):
        if pair is None:
            survey.malformed.add(line)
            continue
        survey.num_pairs += 1
        src, tgt = pair
        checksum = zlib.crc32(src)
        is_compared = checksum % one_in == 0
        if is_compared:
            survey.num_compared += 1
        if not src or not tgt:
            if is_compared:
                survey.empty.add(line)
            continue
        # The first line among them: a small corpus beside a large one is sampled, too.
        if (line - 1) % stride == 0:
            survey.kept.append(Pair(line, _text(src), _text(tgt)))
        is_watched = checksum in watched
        if not is_compared and not is_watched:
            continue
        src_hash, pair_hash = _hash(src), _hash(src + b"\n" + tgt)
        if is_watched:
            for other in held_out:
                other.meet(src_hash, pair_hash)
        if is_compared:
            if src == tgt and not is_mono:
                survey.copied.add(line)
            survey.src_hashes.append(src_hash)
            survey.pair_hashes.append(pair_hash)
            survey.lines.append(line)
    return survey


def checksums(entry: readers.Entry, *, one_in: int = 1) -> frozenset[int]:
    """Returns the checksums of the sources of a held-out corpus.

    Args:
        entry: its files.
        one_in: one of so many pairs was compared.
    """
    pairs = (pair for pair in _raw_pairs(entry) if pair is not None)
    numbers = (zlib.crc32(src) for src, _ in pairs)
    return frozenset(number for number in numbers if number % one_in == 0)


def shared_pairs(surveys: Sequence[PairSurvey]) -> list[findings.Finding]:
    """Returns which corpora hold pairs of an earlier one of the list.

    Args:
        surveys: training corpora of one run, compared by the same rule.
    """
    found, before = [], torch.empty(0, dtype=torch.int64)
    for survey in surveys:
        hashes = torch.tensor(survey.pair_hashes, dtype=torch.int64)
        again = torch.isin(hashes, before)
        if again.any():
            tally = Tally(int(again.sum()), survey.lines[int(again.nonzero()[0])])
            what = "pairs that an earlier training corpus has too"
            advice = "Remove them, unless they are meant to count more."
            severity = findings.by_share(tally.count, survey.num_compared)
            place, total = survey.place, survey.num_compared
            found.append(
                findings.Finding(severity, place, what, advice, tally.count, total, tally.line)
            )
        before = torch.cat([before, hashes])
    return found


def alignment_faults(entry: readers.Entry) -> list[findings.Finding]:
    """Returns the first fault of the word alignments of a training corpus, if it has any.

    Missing lines are not looked for: who counts the lines of all files finds them.
    """
    for pair, (line, place) in zip(_raw_pairs(entry), readers.iterate_links(entry), strict=False):
        if pair is not None:
            try:
                linking.check((_text(pair[0]), _text(pair[1])), line, place)
            except errors.DataError as error:
                return [findings.of_error(place, error)]
    return []


def repeats(hashes: torch.Tensor) -> torch.Tensor:
    """Returns a bool for each of these int64 numbers: whether it stood there before."""
    values, order = torch.sort(hashes, stable=True)
    again = torch.zeros(hashes.numel(), dtype=torch.bool)
    again[order[1:][values[1:] == values[:-1]]] = True
    return again


def _raw_pairs(entry: readers.Entry) -> Iterator[tuple[bytes, bytes] | None]:
    """Yields both sides in bytes, without white space around them; None for what is no pair.

    Unlike `readers.read_pairs` it goes on behind faults, and decodes nothing that is passed over.
    """
    found = readers.files_by_kind(entry)
    for src_path, tgt_path in zip(found.get("src", []), found.get("tgt", []), strict=True):
        for src, tgt in zip(_raw_lines(src_path), _raw_lines(tgt_path), strict=False):
            yield src.strip(), tgt.strip()
    for path in found.get("mono", []):
        yield from ((raw.strip(), raw.strip()) for raw in _raw_lines(path))
    for kind, parse in (("tsv", _tsv_pair), ("jsonl", _jsonl_pair)):
        for path in found.get(kind, []):
            yield from map(parse, _raw_lines(path))


def _raw_lines(path: readers.Place) -> Iterator[bytes]:
    with files.open_read(path) as stream, files.reading(str(path)):
        for number, raw in enumerate(stream):
            yield raw if number else raw.removeprefix(codecs.BOM_UTF8)


def _tsv_pair(raw: bytes) -> tuple[bytes, bytes] | None:
    columns = raw.split(b"\t")
    return (columns[0].strip(), columns[1].strip()) if len(columns) == 2 else None


def _jsonl_pair(raw: bytes) -> tuple[bytes, bytes] | None:
    try:
        pair = json.loads(_text(raw))
    except (ValueError, RecursionError):
        return None
    src, tgt = (pair.get("src"), pair.get("tgt")) if isinstance(pair, dict) else (None, None)
    if not isinstance(src, str) or not isinstance(tgt, str):
        return None
    return src.strip().encode(errors="replace"), tgt.strip().encode(errors="replace")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _hash(raw: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big", signed=True)
