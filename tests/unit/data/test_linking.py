"""Word alignments become aligned pieces, in the cache and in batches."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt import errors
from nmt.data import batches, cache, corpus, filler, filters, linking, plan, sampling
from nmt.text import tokenizer, vocab

IDS = vocab.Vocab(("",) * 5000, unk_id=0, bos_id=1, eos_id=2, pad_id=3)
PAIRS = [
    ("the red fox", "fox the red"),
    ("number", "lazy dogs"),
    ("", "x"),
    ("fox rednumber over dogs", "jumpsdogs fox"),
]
LINES = ["0-1 1-2 2-0", "", "", "0-1 1-0 3-0"]


@pytest.fixture
def make_aligned(make_work, tmp_path):
    """A function from the lines of the alignments to the work of a cache with them."""

    def make(lines: list[str], pairs: list[tuple[str, str]] = PAIRS) -> filler.Work:
        work = make_work(pairs)
        path = tmp_path / "links"
        path.write_text("".join(f"{line}\n" for line in lines))
        entry = dataclasses.replace(work.entries[0], alignments=str(path))
        layout = cache.Layout("uint16", has_text=False, has_links=True)
        return dataclasses.replace(work, entries=(entry,), layout=layout)

    return make


def read_links(data: corpus.Data, index: int) -> set[tuple[int, int]]:
    assert data.links is not None
    return {(code & 0xFFFF, code >> 16) for code in data.links.sentence(index)}


def word_pieces(pieces: tokenizer.Tokenizer, text: str) -> list[list[int]]:
    """The places of the pieces of each word, each word being tokenised as it stands there."""
    found, begin = [], 0
    for word in text.split():
        size = len(pieces.encode(word))
        found.append(list(range(begin, begin + size)))
        begin += size
    assert begin == len(pieces.encode(text))
    return found


def test_all_pieces_of_a_word_are_aligned_with_all_of_its_partners(make_aligned, tokenizer_dir):
    work = make_aligned(LINES)
    filler.fill(work)
    data = corpus.MappedCorpus(work, "", None)
    assert len(data) == 3, "the pair with an empty side is dropped, its line with it"
    pieces = tokenizer.Tokenizer.load(tokenizer_dir, "src")
    kept = [(pair, line) for pair, line in zip(PAIRS, LINES, strict=True) if all(pair)]
    num_links = 0
    for index, ((src, tgt), line) in enumerate(kept):
        src_words, tgt_words = word_pieces(pieces, src), word_pieces(pieces, tgt)
        wanted = {
            (s, t)
            for link in line.split()
            for s in src_words[int(link.split("-")[0])]
            for t in tgt_words[int(link.split("-")[1])]
        }
        assert read_links(data, index) == wanted
        num_links += len(wanted)
    assert num_links > 6, "some word has several pieces"


def test_filling_goes_on_with_the_alignment_of_the_next_pair(make_aligned, monkeypatch):
    monkeypatch.setattr(filler, "BLOCK_PAIRS", 2)
    work = make_aligned(LINES)
    filler.fill(work)
    whole = (work.folder / "links.ids").read_bytes(), (work.folder / "links.begins").read_bytes()
    journal = (work.folder / cache.JOURNAL).read_bytes().splitlines(keepends=True)
    (work.folder / cache.JOURNAL).write_bytes(journal[0])
    filler.fill(work)
    assert (work.folder / "links.ids").read_bytes() == whole[0]
    assert (work.folder / "links.begins").read_bytes() == whole[1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0-0", "", "", "0:1"], r"links:4: wants pairs of words .*given: '0:1'"),
        (["3-0", "", "", ""], r"links:1: source word 3, .* the line has 3"),
        (["0-0", "0-2", "", ""], r"links:2: target word 2, .* the line has 2"),
        (["0-0", "", ""], r"links: has fewer lines"),
        (["", "", "", "", "0-0"], r"links:5: has no pair"),
        (["1--1", "", "", ""], r"links:1: wants pairs"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(make_aligned, lines, message):
    with pytest.raises(errors.DataError, match=message):
        filler.fill(make_aligned(lines))


def test_links_move_behind_tags_and_come_whole_where_sources_are_damaged(make_aligned):
    work = make_aligned(LINES)
    plain = corpus.open_cache(work, "")
    tags = ("\u2581the", "\u2581fox")
    entry = dataclasses.replace(work.entries[0], tags=tags)
    tagged = dataclasses.replace(work, entries=(entry,), folder=work.folder.with_name("tagged"))
    data = corpus.open_cache(tagged, "")
    for index in range(3):
        moved = {(src + 2, tgt) for src, tgt in read_links(plain, index)}
        assert read_links(data, index) == moved
    # A sampler hands over sentences in the order of the batch; links are found by their pairs.
    wide = filters.PairFilter(100, 100, 9.0)
    sampler = sampling.Sampler(None, None, wide, seed=1, sources=[sampling.Source(2)])
    order, here = torch.tensor([2, 0]), plan.Position()
    pieces = [
        batches.Collator(data, IDS, IDS, None, own).collate(order, here).pieces[0]
        for own in (None, sampler)
    ]
    assert torch.equal(pieces[0].src_BS, pieces[1].src_BS)
    assert pieces[0].links_2L is not None and pieces[1].links_2L is not None
    assert torch.equal(pieces[0].links_2L, pieces[1].links_2L)
    keys = {
        cache.key_of(one.entries, one.tokenizer_dir, one.pair_filter, one.layout)
        for one in (work, tagged)
    }
    assert len(keys) == 2, "tags count"


def test_a_cache_without_links_has_the_key_that_it_always_had(make_aligned, make_work):
    plain, aligned = make_work(PAIRS), make_aligned(LINES)
    assert plain.layout.key() == {"id_type": "uint16", "has_text": False}
    keys = {
        cache.key_of(work.entries, work.tokenizer_dir, work.pair_filter, work.layout)
        for work in (plain, aligned)
    }
    Path(aligned.entries[0].alignments).write_text("0-0\n\n\n\n")
    keys.add(cache.key_of(aligned.entries, plain.tokenizer_dir, plain.pair_filter, aligned.layout))
    assert len(keys) == 3, "the alignments count, too"


def test_an_entry_without_a_file_has_no_links(make_work, tokenizer_dir):
    sides = {side: tokenizer.Tokenizer.load(tokenizer_dir, side) for side in cache.SIDES}
    alignments = linking.Alignments(make_work(PAIRS).entries[0], sides)
    assert alignments.links(("a", "b"), ([5, 6], [7])) == []
    alignments.skip()
    alignments.finish()


def with_links(data: corpus.Corpus, number: int) -> corpus.Corpus:
    """Adds links to every pair: those with (source + 2 target + number) divisible by 3."""
    codes, begins = [], [0]
    for index in range(len(data)):
        src, tgt = len(data.src.sentence(index)), len(data.tgt.sentence(index))
        codes += [
            cache.link(s, t)
            for t in range(tgt)
            for s in range(src)
            if (s + 2 * t + number) % 3 == 0
        ]
        begins.append(len(codes))
    side = corpus.Side(torch.tensor(codes, dtype=torch.int32), torch.tensor(begins))
    return dataclasses.replace(data, links=side)


def tokens_of_links(piece: batches.Piece) -> list[tuple[int, int]]:
    """The source and target token of each link; every token of a corpus is another one."""
    targets = dict(zip(piece.real_N.tolist(), piece.tgt_out_N.tolist(), strict=True))
    width = piece.tgt_in_BT.shape[1]
    return [
        (int(piece.src_BS[place // width, source]), targets[place])
        for place, source in zip(*piece.links_2L.tolist(), strict=True)
    ]


@given(st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6)), min_size=1, max_size=7),
       st.integers(1, 40), st.integers(0, 2))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_links_point_at_the_same_tokens_however_a_batch_is_cut(make_corpus, lengths, limit, number):
    data = with_links(make_corpus(lengths), number)
    wanted = sorted(
        (data.src.sentence(i)[code & 0xFFFF], data.tgt.sentence(i)[code >> 16])
        for i in range(len(data))
        for code in data.links.sentence(i)
    )
    for max_device_tokens in (None, limit):
        collator = batches.Collator(data, IDS, IDS, max_device_tokens)
        order = torch.arange(len(data)).flip(0)
        pieces = collator.collate(order, plan.Position()).pieces
        assert sorted(link for piece in pieces for link in tokens_of_links(piece)) == wanted
        cut = batches.fitted(pieces, limit)
        assert sorted(link for piece in cut for link in tokens_of_links(piece)) == wanted


@pytest.mark.parametrize(
    ("pair", "line", "wanted"),
    [
        (("the\u00a0red fox", "fox the"), "1-0", [("fox", "fox")]),
        (("the\u00a0red fox", "fox the"), "0-1", [("the", "the"), ("red", "the")]),
        (("the \u200b fox", "fox the"), "2-0 0-1", [("fox", "fox"), ("the", "the")]),
    ],
)
def test_words_are_counted_as_they_stand_in_the_files(
    make_aligned, tokenizer_dir, pair, line, wanted
):
    work = make_aligned([line], [pair])
    filler.fill(work)
    pieces = tokenizer.Tokenizer.load(tokenizer_dir, "src")
    sides = [pieces.normalize(text).replace("\u2581", " ") for text in pair]
    places = [dict(zip(text.split(), word_pieces(pieces, text), strict=True)) for text in sides]
    links = {(s, t) for src, tgt in wanted for s in places[0][src] for t in places[1][tgt]}
    assert read_links(corpus.MappedCorpus(work, "", None), 0) == links


def test_words_that_are_not_there_after_normalising_have_no_links(make_aligned):
    work = make_aligned(["1-0"], [("the \u200b fox", "fox the")])
    filler.fill(work)
    assert read_links(corpus.MappedCorpus(work, "", None), 0) == set()
