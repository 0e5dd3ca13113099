"""Corpora are tokenised once into a cache that is mapped, grows, and is known by its key."""

import contextlib
import copy
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nmt import errors
from nmt.data import cache, corpus, filler, filters
from nmt.runtime import locks
from nmt.text import tokenizer

MakeWork = Callable[..., filler.Work]
PAIRS = [
    ("the red fox", "dogs"),
    ("", "dogs"),
    ("lazy", "number 7 jumps"),
    ("red red dogs over fox", "the lazy"),
    ("jumps over", "fox number 3"),
]
KEPT = [PAIRS[0], *PAIRS[2:]]


def key(work: filler.Work) -> str:
    return cache.key_of(work.entries, work.tokenizer_dir, work.pair_filter, work.layout)


def open_cache(work: filler.Work) -> corpus.MappedCorpus:
    return corpus.open_cache(work, key(work))


def sentences(data: corpus.MappedCorpus | corpus.Corpus) -> list[tuple[list[int], list[int]]]:
    return [(data.src.sentence(index), data.tgt.sentence(index)) for index in range(len(data))]


def wanted(work: filler.Work, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    pieces = tokenizer.Tokenizer.load(work.tokenizer_dir, "src")
    return [(pieces.encode(src), pieces.encode(tgt)) for src, tgt in pairs]


def contents(work: filler.Work) -> dict[str, bytes]:
    paths = sorted(work.folder.iterdir())
    return {path.name: path.read_bytes() for path in paths if path.name != locks.NAME}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filler, "BLOCK_PAIRS", 2)


@pytest.fixture
def start(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[filler.Work], corpus.MappedCorpus]]:
    """Opens a cache that a process of its own fills."""
    monkeypatch.setattr(corpus, "SMALL_TEXT_BYTES", 0)
    opened = []

    def run(work: filler.Work) -> corpus.MappedCorpus:
        opened.append(open_cache(work))
        return opened[-1]

    yield run
    for data in opened:
        data.close()


@pytest.mark.parametrize("block_pairs", [1, 2, 3, 5, 100])
def test_pairs_are_kept_in_order_whatever_the_size_of_the_blocks(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch, block_pairs: int
) -> None:
    monkeypatch.setattr(filler, "BLOCK_PAIRS", block_pairs)
    work = make_work(PAIRS, PAIRS[:1])
    data = open_cache(work)
    assert sentences(data) == wanted(work, [*KEPT, PAIRS[0]])
    assert (data.entry_sizes, len(data), data.is_complete, data.share) == ((4, 1), 5, True, 1.0)
    assert (data.wait(3), data.wait(99)) == (3, 5)


@pytest.mark.parametrize("id_type", ["uint16", "int32"])
def test_ids_take_two_bytes_where_the_vocabulary_fits_and_lengths_count_eos(
    make_work: MakeWork, id_type: cache.IdType
) -> None:
    work = make_work(PAIRS, layout=cache.Layout(id_type, has_text=False))
    data = open_cache(work)
    assert sentences(data) == wanted(work, KEPT)
    assert data.src.ids.dtype == getattr(torch, id_type)
    found = data.tgt.lengths_of(torch.tensor([3, 0])).tolist()
    assert found == [len(ids) + 1 for _, ids in wanted(work, [KEPT[3], KEPT[0]])]


def test_the_smallest_type_of_ids_is_taken() -> None:
    kinds = [cache.Layout.fitting(size, has_text=False).id_type for size in (8000, 65536, 65537)]
    assert kinds == ["uint16", "uint16", "int32"]


def test_texts_are_kept_for_sampling(make_work: MakeWork) -> None:
    pairs = [("größer", "x"), ("the\u2028fox", "日本")]
    data = open_cache(make_work(pairs, has_text=True))
    assert data.src.texts(torch.tensor([1, 0, 1])) == ["the\u2028fox", "größer", "the\u2028fox"]
    assert data.tgt.texts(torch.tensor([1])) == ["日本"]


@pytest.mark.usefixtures("small_blocks")
def test_filling_goes_on_from_every_point_at_which_it_may_be_killed(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(PAIRS, PAIRS[:2], has_text=True)
    open_cache(work)
    whole = contents(work)
    lines = whole["journal.jsonl"].splitlines(keepends=True)
    assert len(lines) == 5, "three blocks, one of the second entry, and the end"
    encoded: list[int] = []
    encode = tokenizer.Tokenizer.encode_batch

    def counting(self: tokenizer.Tokenizer, texts: list[str]) -> list[list[int]]:
        encoded.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(tokenizer.Tokenizer, "encode_batch", counting)
    for kept in range(len(lines)):
        for torn in (b"", lines[kept][:-1], lines[kept].replace(b'"entry": ', b'"entry": 1')):
            (work.folder / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + torn)
            for name in work.layout.types:
                with (work.folder / name).open("ab") as stream:
                    stream.write(b"half a block")
            encoded.clear()
            open_cache(work)
            assert contents(work) == whole
            # Of 5 and 2 pairs, two a block, nothing is tokenised again.
            assert sum(encoded) == 2 * [7, 5, 3, 2, 0][kept]


@pytest.mark.parametrize("name", ["src.ids", "src.begins", "tgt.ids", "tgt.begins"])
@pytest.mark.parametrize("harm", ["altered", "cut", "gone"])
@pytest.mark.usefixtures("small_blocks")
def test_a_torn_or_altered_cache_is_made_again_with_one_line(
    make_work: MakeWork, caplog: pytest.LogCaptureFixture, name: str, harm: str
) -> None:
    work = make_work(PAIRS)
    open_cache(work)
    whole = contents(work)
    path = work.folder / name
    if harm == "altered":
        path.write_bytes(bytes([whole[name][0] ^ 1]) + whole[name][1:])
    elif harm == "cut":
        path.write_bytes(whole[name][:-1])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        data = open_cache(work)
    assert contents(work) == whole
    assert sentences(data) == wanted(work, KEPT)
    [message] = [record.getMessage() for record in caplog.records]
    assert message == f"{work.folder}: the token cache is torn or altered; it is made again"


def test_a_cache_that_is_complete_is_not_tokenised_again(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(PAIRS)
    open_cache(work)
    monkeypatch.setattr(filler, "fill", None)
    assert sentences(open_cache(work)) == wanted(work, KEPT)


def test_the_key_depends_on_all_that_the_cache_is_made_from(
    make_work: MakeWork, tmp_path: Path, tokenizer_dir: Path
) -> None:
    def found(*entries: list[tuple[str, str]], **changes: object) -> str:
        return key(make_work(*entries, **changes))

    other = tmp_path / "other"
    other.mkdir()
    for path in tokenizer_dir.iterdir():
        content = path.read_bytes()
        (other / path.name).write_bytes(
            content.replace(b'"lowercase": false', b'"lowercase": true')
        )
    narrow = filters.PairFilter(max_src_length=99, max_tgt_length=100, max_length_ratio=99.0)
    keys = [
        found(PAIRS),
        found(PAIRS[::-1]),
        found([pair[::-1] for pair in PAIRS]),
        found(PAIRS, PAIRS[:1]),
        found([*PAIRS, PAIRS[0]]),
        found(PAIRS, pair_filter=narrow),
        found(PAIRS, has_text=True),
        found(PAIRS, layout=cache.Layout("int32", has_text=False)),
        found(PAIRS, tokenizer_dir=other),
    ]
    assert len(set(keys)) == len(keys)
    work = make_work(PAIRS)
    assert key(work) == keys[0]
    Path(str(work.entries[0].src)).rename(tmp_path / "moved")
    assert key(make_work(PAIRS, folder=tmp_path / "elsewhere")) == keys[0]


def test_what_each_filter_took_is_logged_for_each_entry_each_time(
    make_work: MakeWork, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = filters.PairFilter(max_src_length=100, max_tgt_length=100, max_length_ratio=2.5)
    work = make_work(PAIRS, [("fox", "the red"), ("fox", "")], pair_filter=narrow)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="nmt.data"):
            open_cache(work)
        first, second = [record.getMessage() for record in caplog.records]
        name = f"{work.entries[0].src} + {work.entries[0].tgt}"
        assert first.startswith(f"{name}: 5 pairs read, ")
        assert "dropped: 1 empty" in first
        assert second.endswith(
            ": 2 pairs read, 1 kept; dropped: 1 empty, 0 longer than 100 tokens, "
            "0 with a length ratio above 2.5"
        )


def test_invalid_utf8_is_warned_of(make_work: MakeWork, caplog: pytest.LogCaptureFixture) -> None:
    work = make_work([("fox", "dogs")] * 3)
    Path(str(work.entries[0].tgt)).write_bytes(b"dogs\n\xff\ndogs\n")
    with caplog.at_level(logging.WARNING):
        open_cache(work)
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{work.entries[0].tgt}: lines that were not valid UTF-8")
    assert message.endswith(": 1")


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize(
    ("harm", "kind", "text"),
    [
        (
            "empty",
            errors.DataError,
            "1.tgt: no pair is left (1 pairs read, 0 kept; dropped: 1 empty",
        ),
        ("unequal", errors.DataError, "differ in their number of lines (given: 1 and 2)"),
        ("missing", errors.FileError, "1.src: no such file"),
    ],
)
def test_mistakes_of_a_corpus_reach_the_user_in_the_same_words(
    make_work: MakeWork, in_process: bool, harm: str, kind: type[errors.NMTError], text: str
) -> None:
    work = make_work(PAIRS, [("", "fox")])
    if harm == "unequal":
        Path(str(work.entries[1].tgt)).write_text("fox\nfox\n")
    if harm == "missing":
        Path(str(work.entries[1].src)).unlink()

    def fill_beside() -> None:
        with contextlib.closing(corpus.MappedCorpus(work, "", filler.Filler(work))) as data:
            data.wait(99)

    with pytest.raises(kind) as caught:
        filler.fill(work) if in_process else fill_beside()
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_process_fills_the_same_cache(
    make_work: MakeWork, start: Callable[[filler.Work], corpus.MappedCorpus]
) -> None:
    work = make_work(PAIRS, PAIRS[:1], has_text=True)
    data = start(work)
    assert data.wait(99) == 5
    assert data.entry_sizes == (4, 1)
    assert sentences(data) == wanted(work, [*KEPT, PAIRS[0]])
    beside = contents(work)
    cache.remove_torn(work.folder, work.layout)
    filler.fill(work)
    assert contents(work) == beside


def test_a_killed_filler_is_one_line(
    make_work: MakeWork, start: Callable[[filler.Work], corpus.MappedCorpus], tmp_path: Path
) -> None:
    work = make_work(PAIRS)
    work.folder.mkdir()
    with locks.exclusive(work.folder):  # as if another run were filling it
        data = start(work)
        process = data._process
        assert process is not None
        process._process.send_signal(signal.SIGKILL)
        with pytest.raises(errors.DataError) as caught:
            data.wait(1)
    assert "ended early (killed by SIGKILL)" in str(caught.value)
    assert "The same command goes on" in str(caught.value)
    assert start(work).wait(99) == 4


def test_a_filler_does_not_outlive_its_trainer(make_work: MakeWork) -> None:
    work = make_work(PAIRS)
    work.folder.mkdir()
    with locks.exclusive(work.folder):  # it waits for ever
        process = filler.Filler(work)
        stdin = process._process.stdin
        assert stdin is not None
        stdin.close()  # as the system does when the trainer ends
        assert process._process.wait(timeout=30) == 1
    process.close()
    assert contents(work) == {}


def test_filling_waits_for_another_run_and_takes_what_it_made(
    make_work: MakeWork, start: Callable[[filler.Work], corpus.MappedCorpus]
) -> None:
    work = make_work(PAIRS)
    work.folder.mkdir()
    with locks.exclusive(work.folder):
        data = start(work)
        with cache.Writer(work.folder, work.layout) as writer:
            filler._fill(work, writer)
        assert data.wait(99) == 4, "while its own filler still waits"
    made = contents(work)
    assert sentences(data) == wanted(work, KEPT)
    assert contents(work) == made


def test_a_corpus_grows_under_its_reader(make_work: MakeWork, small_blocks: None) -> None:
    work = make_work(PAIRS)
    filler.fill(work)
    journal = work.folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0])
    data = corpus.MappedCorpus(work, "", None)
    assert data.src.begins.numel() == 2
    duplicate = copy.deepcopy(data)  # made of the same state as what a worker gets
    assert not duplicate._sides, "a copy maps the files again, and carries none of them"
    for grown in (data, duplicate):
        journal.write_bytes(lines[0])
        assert (len(grown), grown.is_complete, grown.wait(1)) == (1, False, 1)
        assert 0 < grown.share < 1
        before = grown.src
        journal.write_bytes(b"".join(lines[:2]))
        assert grown.wait(2) == 2
        assert len(grown) == 3
        assert before.begins.numel() == 2, "what was handed out stays as it was"
        journal.write_bytes(b"".join(lines))
        assert grown.wait(99) == 4
        assert sentences(grown) == wanted(work, KEPT)


def test_the_filler_imports_no_torch() -> None:
    program = "import sys; from nmt.data import filler; print('torch' in sys.modules)"
    path = str(Path(corpus.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n"


def test_caches_of_other_corpora_are_removed(tmp_path: Path) -> None:
    for name in ("old", "kept", "foreign"):
        (tmp_path / name).mkdir()
        if name != "foreign":
            (tmp_path / name / locks.NAME).touch()
    cache.remove_others(tmp_path, keep="kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "kept"]


def test_a_torn_cache_that_another_run_has_made_again_stays(
    make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(PAIRS)
    filler.fill(work)
    whole = contents(work)
    path = work.folder / "src.ids"
    path.write_bytes(b"\xff" * path.stat().st_size)
    is_intact, looks = cache.is_intact, []

    def looked_at(*args) -> bool:
        looks.append(is_intact(*args))
        if len(looks) == 1:  # the other run comes first
            cache.remove_torn(work.folder, work.layout)
            filler.fill(work)
        return looks[0] if len(looks) == 1 else looks[-1]

    monkeypatch.setattr(cache, "is_intact", looked_at)
    inode = None
    with contextlib.closing(corpus.open_cache(work, "")) as data:
        inode = path.stat().st_ino
        assert len(data) == 4
    assert contents(work) == whole and path.stat().st_ino == inode
    assert looks == [False, False, True]
