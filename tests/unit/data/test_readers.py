"""Pairs are read from every kind of corpus, and what is wrong with one is named by its line."""

import dataclasses
import gzip
import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt import errors
from nmt.data import readers

TEXT = st.text(st.characters(exclude_characters="\n\r\t", exclude_categories=("Cs",)), max_size=9)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the configuration's entries look like."""

    src: str | None = None
    tgt: str | None = None
    tsv: str | None = None
    jsonl: str | None = None


def parallel(folder: Path, src: bytes, tgt: bytes) -> Entry:
    (folder / "c.src").write_bytes(src)
    (folder / "c.tgt").write_bytes(tgt)
    return Entry(src=str(folder / "c.src"), tgt=str(folder / "c.tgt"))


def tsv(folder: Path, content: str) -> Entry:
    (folder / "c.tsv").write_text(content, encoding="utf-8", newline="")
    return Entry(tsv=str(folder / "c.tsv"))


def jsonl(folder: Path, content: str) -> Entry:
    (folder / "c.jsonl").write_text(content, encoding="utf-8", newline="")
    return Entry(jsonl=str(folder / "c.jsonl"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_every_kind_of_corpus_gives_the_same_pairs(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    sides = ["".join(f"{pair[side]}\n" for pair in pairs).encode() for side in (0, 1)]
    entries = [
        parallel(tmp_path, *sides),
        tsv(tmp_path, "".join(f"{src}\t{tgt}\r\n" for src, tgt in pairs)),
        jsonl(tmp_path, "\n".join(json.dumps({"src": src, "tgt": tgt}) for src, tgt in pairs)),
    ]
    for entry in entries:
        assert list(readers.read_pairs(entry)) == pairs
        assert list(readers.read_side(entry, "src")) == [src for src, _ in pairs]
        assert list(readers.read_side(entry, "tgt")) == [tgt for _, tgt in pairs]


def test_compressed_corpora_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(b"a\tb\n"))
    assert list(readers.read_pairs(Entry(tsv=str(tmp_path / "c.tsv.gz")))) == [("a", "b")]


@pytest.mark.parametrize(("num_src", "num_tgt"), [(3, 5), (5, 3), (0, 2), (1, 0), (1, 300)])
def test_unequal_files_are_named_with_both_counts(
    tmp_path: Path, num_src: int, num_tgt: int
) -> None:
    entry = parallel(tmp_path, b"x\n" * num_src, b"y\n" * num_tgt)
    with pytest.raises(errors.DataError) as caught:
        list(readers.read_pairs(entry))
    for part in (f"{entry.src} and {entry.tgt}: ", f"given: {num_src} and {num_tgt}"):
        assert part in str(caught.value)


@pytest.mark.parametrize("line", ["alone", "a\tb\tc", "", "a\t\tb"])
def test_a_line_without_two_columns_is_named(tmp_path: Path, line: str) -> None:
    entry = tsv(tmp_path, f"a\tb\n{line}\n")
    with pytest.raises(errors.DataError, match=r"c\.tsv:2: wants two columns \(given: \d"):
        list(readers.read_pairs(entry))


def test_an_empty_column_is_no_error(tmp_path: Path) -> None:
    assert list(readers.read_pairs(tsv(tmp_path, "\tb\na\t"))) == [("", "b"), ("a", "")]


@pytest.mark.parametrize(
    "line",
    [
        '{"src": "a"}',
        '{"src": "a", "tgt": 1}',
        '{"src": null, "tgt": "b"}',
        '["a", "b"]',
        '"a"',
        "a\tb",
        "",
        "[" * 100_000,
    ],
)
def test_a_line_without_two_texts_is_named(tmp_path: Path, line: str) -> None:
    entry = jsonl(tmp_path, f'{{"src": "a", "tgt": "b", "more": 1}}\n{line}\n')
    with pytest.raises(errors.DataError, match=r'c\.jsonl:2: .*\{"src": \.\.\., "tgt": \.\.\.\}'):
        list(readers.read_pairs(entry))


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    for entry in (parallel(tmp_path, b"", b""), tsv(tmp_path, ""), jsonl(tmp_path, "")):
        with pytest.raises(errors.DataError, match=r"c\..*: has no line"):
            list(readers.read_pairs(entry))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.FileError, match="none.tsv: no such file"):
        list(readers.read_pairs(Entry(tsv=str(tmp_path / "none.tsv"))))


def test_invalid_utf8_is_one_warning_for_each_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = parallel(tmp_path, b"a\xff\nb\n\xfe\xff\n", b"c\nd\n\xff\n")
    with caplog.at_level(logging.WARNING):
        pairs = list(readers.read_pairs(entry))
        assert list(readers.read_side(entry, "src")) == ["a\ufffd", "b", "\ufffd\ufffd"]
    assert pairs == [("a\ufffd", "c"), ("b", "d"), ("\ufffd\ufffd", "\ufffd")]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert messages[0].startswith(f"{entry.src}: lines that were not valid UTF-8")
    assert [message.rsplit(": ", 1)[1] for message in messages] == ["2", "1"]
    assert messages[1].startswith(f"{entry.tgt}: ")


def test_one_file_on_both_sides_is_read_twice(tmp_path: Path) -> None:
    (tmp_path / "same").write_text("a\nb\n")
    entry = Entry(src=str(tmp_path / "same"), tgt=str(tmp_path / "same"))
    assert list(readers.read_pairs(entry)) == [("a", "a"), ("b", "b")]


def test_the_files_of_an_entry_are_listed() -> None:
    assert readers.corpus_files(Entry(src="a", tgt="b")) == [Path("a"), Path("b")]
    assert readers.corpus_files(Entry(jsonl="c.jsonl")) == [Path("c.jsonl")]
    assert readers.describe(Entry(src="a", tgt="b")) == "a + b"
