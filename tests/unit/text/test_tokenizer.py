"""Text becomes ids and comes back; models are exact, repeatable, and whole or not there."""

import dataclasses
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from nmt import errors
from nmt.runtime import files
from nmt.text import sentencepiece_training as training
from nmt.text import tokenizer, vocab

TYPES = ("bpe", "unigram", "char", "word")


def _corpus() -> list[str]:
    generator = random.Random(3)
    letters = "abcdefghijklmnopqrstuvwxyzäöüß"
    words = ["".join(generator.choices(letters, k=generator.randint(1, 8))) for _ in range(200)]
    return [" ".join(generator.choices(words, k=generator.randint(1, 9))) + "." for _ in range(400)]


CORPUS = _corpus()
SMALL = training.TokenizerSettings(vocab_size=320)


def trained(lines: list[str] = CORPUS, **options: Any) -> tokenizer.Tokenizer:
    settings = dataclasses.replace(SMALL, **options)
    return tokenizer.Tokenizer(
        training.train(lines, settings), "test", lowercase=settings.lowercase
    )


EXACT = {kind: trained(type=kind, normalization="identity") for kind in TYPES}
NORMAL = {kind: trained(type=kind) for kind in TYPES}


@pytest.fixture(params=TYPES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_special_pieces_have_the_first_ids(kind: str) -> None:
    ids = NORMAL[kind].vocab
    assert (ids.unk_id, ids.bos_id, ids.eos_id, ids.pad_id) == (0, 1, 2, 3)
    assert ids.pieces[:4] == (vocab.UNK, vocab.BOS, vocab.EOS, vocab.PAD)


def test_the_vocabulary_size_is_exact_or_an_upper_limit(kind: str) -> None:
    size = len(NORMAL[kind].vocab)
    assert size <= 320 if kind == "char" else size == 320
    if kind in {"char", "word"}:
        assert 256 < len(trained(type=kind, vocab_size=10**6).vocab) < 1000


def test_text_of_the_corpus_comes_back(kind: str) -> None:
    for normalization in ("nmt_nfkc", "nfkc", "identity"):
        machine = trained(type=kind, normalization=normalization)
        ids = machine.encode_batch(CORPUS)
        assert [machine.decode(sentence) for sentence in ids] == CORPUS
        assert ids[7] == machine.encode(CORPUS[7])
        assert not {0, 1, 2, 3} & {token for sentence in ids for token in sentence}


@given(text=st.text(st.characters(exclude_characters="\n\r\u2581", exclude_categories=("Cs",))))
def test_any_text_comes_back_under_identity_with_bytes(text: str) -> None:
    for machine in EXACT.values():
        assert machine.decode(machine.encode(text)) == text


@pytest.mark.parametrize("text", ["a  b", " a", "a ", "\ta\tb", "  ", "😀 x", "a\0b", "\ufeffz"])
def test_odd_spaces_and_signs_come_back_under_identity(kind: str, text: str) -> None:
    assert EXACT[kind].decode(EXACT[kind].encode(text)) == text


@given(words=st.lists(st.text("abcxyzäß.,'-09日本語é€", min_size=1, max_size=8)))
def test_clean_text_comes_back_under_the_default(words: list[str]) -> None:
    text = " ".join(words)
    for machine in NORMAL.values():
        assert machine.decode(machine.encode(text)) == text


@given(text=st.text(st.characters() | st.sampled_from("\0\ud800\n\r\u2028\u2581 ")))
def test_no_text_breaks_it_and_a_line_stays_one_line(text: str) -> None:
    for machine in (*NORMAL.values(), *EXACT.values()):
        decoded = machine.decode(machine.encode(text))
        assert "\n" not in decoded
        assert "\r" not in decoded


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\0" * 1000, "\ud800", "ab " * 30_000])
def test_long_and_broken_text_is_encoded(text: str) -> None:
    assert NORMAL["bpe"].encode(text)


def test_pieces_for_bytes_cannot_break_a_line() -> None:
    machine = NORMAL["bpe"]
    ids = [machine.vocab.pieces.index(piece) for piece in ("<0x0A>", "<0x41>", "<0x0D>")]
    assert machine.decode(ids) == " A "


@pytest.mark.parametrize("text", ["m²", "Foo™ abc", "abc ½ de", "Ａ", "ab\u200bc", "…", "²²", "🙂"])
def test_what_normalisation_would_change_is_spelled_in_bytes(kind: str, text: str) -> None:
    machine = NORMAL[kind]
    ids = machine.encode_exactly(text)
    assert ids is not None and machine.decode(ids) == text
    # It goes on as text does.
    assert machine.decode([*machine.encode("abc"), *ids, *machine.encode("de")]) == f"abc {text} de"
    assert text == "🙂" or machine.decode(machine.encode(text)) != text


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_only_what_changes_is_in_bytes(kind: str) -> None:
    machine = NORMAL[kind]
    for word in CORPUS[0].split() + CORPUS[1].split():
        pieces = [machine.vocab.pieces[token] for token in machine.encode_exactly(f"{word}²{word}")]
        assert sum(piece.startswith("<0x") for piece in pieces) == 2
        assert letters_of(pieces) == f"{tokenizer.SPACE}{word}{word}"


def letters_of(pieces: list[str]) -> str:
    return "".join(piece for piece in pieces if not piece.startswith("<0x"))


@given(st.text(alphabet="abä ²™½…\u0301\u0308ﾊﾞﬁÅ\u212bｱ\u200bé\u1100\u1161", max_size=12))
def test_any_text_is_spelled_exactly_where_there_are_bytes(text: str) -> None:
    for machine in NORMAL.values():
        ids = machine.encode_exactly(text)
        assert ids is not None
        found = unicodedata.normalize("NFC", " ".join(machine.decode(ids).split()))
        assert found == unicodedata.normalize("NFC", " ".join(text.split()))


def test_what_is_read_as_it_is_written_has_the_usual_pieces(kind: str) -> None:
    machine = NORMAL[kind]
    for line in [*CORPUS[:20], "e\u0301a"]:
        assert machine.encode_exactly(f"  {line} ") == machine.encode(line)
    assert machine.encode_exactly("") == machine.encode_exactly(" \u3000 ") == []
    assert machine.encode_exactly("ab\ud800") is None


def test_without_bytes_only_what_pieces_spell_is_exact() -> None:
    machine = trained(byte_fallback=False, vocab_size=200)
    assert machine.encode_exactly("m²") is None and machine.encode_exactly("🙂") is None
    assert machine.encode_exactly(CORPUS[0]) == machine.encode(CORPUS[0])


def test_exact_text_has_the_case_of_the_model() -> None:
    machine = trained(lowercase=True)
    assert machine.decode(machine.encode_exactly("ABC m²") or []) == "abc m²"


def test_special_ids_are_passed_over() -> None:
    machine = NORMAL["bpe"]
    ids = machine.encode("aber")
    assert machine.decode([1, *ids, 2, 3, 3]) == "aber"
    assert machine.decode([]) == ""
    assert machine.encode("") == []
    assert machine.encode_batch([]) == []


def test_lowercase_applies_to_training_and_encoding() -> None:
    machine = trained([line.upper() for line in CORPUS], lowercase=True)
    assert machine.decode(machine.encode("ABER Ä")) == "aber ä"
    assert not any(piece != piece.lower() for piece in machine.vocab.pieces[4 + 256 :])


def test_symbols_of_the_user_are_never_cut() -> None:
    machine = trained(user_defined_symbols=("@@sep", "a,b"))
    pieces = [machine.vocab.pieces[token] for token in machine.encode("x@@sepx a,b")]
    assert "@@sep" in pieces
    assert "a,b" in pieces


def test_without_bytes_unknown_characters_are_unknown() -> None:
    machine = trained(byte_fallback=False, vocab_size=100)
    assert machine.vocab.unk_id in machine.encode("日")
    assert NORMAL["bpe"].vocab.unk_id not in NORMAL["bpe"].encode("日")


def test_the_same_text_gives_the_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("\n".join(CORPUS), encoding="utf-8")
    code = (
        "import hashlib, os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from nmt.runtime import files; from nmt.text import sentencepiece_training as t\n"
        "for k in sys.argv[2:]:\n"
        "    s = t.TokenizerSettings(type=k, vocab_size=320)\n"
        "    print(hashlib.sha256(t.train(files.read_lines(sys.argv[1]), s)).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "corpus"), *TYPES]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    for kind, digest in zip(TYPES, run.stdout.split(), strict=True):
        path = tmp_path / kind
        path.write_bytes(training.train(CORPUS, dataclasses.replace(SMALL, type=kind)))
        assert files.sha256_of(path) == digest
    assert run.stderr == ""


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_too_large_a_vocabulary_names_the_largest(kind: str) -> None:
    with pytest.raises(errors.ConfigError, match="tokenizer.vocab_size: 90000 is more") as caught:
        trained(type=kind, vocab_size=90_000)
    largest = int(str(caught.value).split("at most ")[1].split(")")[0])
    assert len(trained(type=kind, vocab_size=largest).vocab) == largest


def test_too_small_a_vocabulary_names_the_smallest(kind: str) -> None:
    with pytest.raises(errors.ConfigError, match="tokenizer.vocab_size: has no room") as caught:
        trained(type=kind, vocab_size=9)
    smallest = int(str(caught.value).split("at least ")[1].split(".")[0])
    assert len(trained(type=kind, vocab_size=smallest).vocab) == smallest


@pytest.mark.parametrize("lines", [[], ["", "  "], ["\0"], ["\u200b", "\ufeff"]])
def test_no_text_is_an_error_of_the_data(lines: list[str]) -> None:
    with pytest.raises(errors.DataError, match="no line with text"):
        trained(lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_defined_symbols": ("<s>",)}, "there already .*'<s>'"),
        ({"user_defined_symbols": ("a", "b", "a")}, "there twice .*'a'"),
        ({"user_defined_symbols": ("a b",)}, "white space"),
        ({"user_defined_symbols": ("",)}, "empty"),
        ({"user_defined_symbols": ("<A>",), "lowercase": True}, "lowercase is on"),
        ({"character_coverage": 0.5}, "0.98 to 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        trained(**options)


def test_long_lines_nul_and_surrogates_do_not_stop_training() -> None:
    odd = ["xyz " * 25_000, "a\0b", "\ud800 a", "日" * 100_000]
    machine = trained([*CORPUS, *odd])
    assert "日" in "".join(machine.vocab.pieces)
    assert len(machine.vocab) == 320


def test_the_sample_is_bounded_uniform_and_repeatable() -> None:
    lines = [str(number) for number in range(1000)]
    counts = dict.fromkeys(lines, 0)
    for seed in range(100):
        settings = training.TokenizerSettings(max_sentences=100, seed=seed)
        sample = training._sample(iter(lines), settings)
        assert len(sample) == len(set(sample)) == 100
        assert sample == training._sample(iter(lines), settings)
        for line in sample:
            counts[line] += 1
    assert sum(counts[line] for line in lines[:500]) == pytest.approx(5000, abs=300)
    assert sum(counts[line] for line in lines[100:200]) == pytest.approx(1000, abs=150)


def build(folder: Path, *, shared: bool, tgt_vocab_size: int | None = None, **options: Any) -> None:
    def reader(lines: list[str]) -> Callable[[], Iterator[str]]:
        return lambda: iter(lines)

    tokenizer.build_tokenizers(
        folder,
        dataclasses.replace(SMALL, **options),
        reader(CORPUS),
        reader([line.replace("a", "и") for line in CORPUS]),
        shared=shared,
        tgt_vocab_size=tgt_vocab_size,
    )


def test_a_shared_folder_has_one_model_and_can_be_moved(tmp_path: Path) -> None:
    build(tmp_path / "tokenizer", shared=True, lowercase=True)
    shutil.move(tmp_path / "tokenizer", tmp_path / "moved")
    names = sorted(path.name for path in (tmp_path / "moved").iterdir())
    assert names == ["spm.model", "spm.vocab", "tokenizer.json"]
    src = tokenizer.Tokenizer.load(tmp_path / "moved", "src")
    tgt = tokenizer.Tokenizer.load(tmp_path / "moved", "tgt")
    assert src.vocab == tgt.vocab
    assert {"▁", "и", "a"} <= set("".join(src.vocab.pieces))
    assert src.decode(src.encode("ABER")) == "aber"
    listing = (tmp_path / "moved" / "spm.vocab").read_text(encoding="utf-8")
    assert tuple(listing.splitlines()) == src.vocab.pieces
    content = json.loads((tmp_path / "moved" / "tokenizer.json").read_text())
    assert content == {"format": 1, "type": "bpe", "shared": True, "lowercase": True}


def test_separate_models_have_their_own_pieces_and_sizes(tmp_path: Path) -> None:
    build(tmp_path / "tokenizer", shared=False, tgt_vocab_size=310)
    names = sorted(path.name for path in (tmp_path / "tokenizer").iterdir())
    assert names == ["src.model", "src.vocab", "tgt.model", "tgt.vocab", "tokenizer.json"]
    src = tokenizer.Tokenizer.load(tmp_path / "tokenizer", "src")
    tgt = tokenizer.Tokenizer.load(tmp_path / "tokenizer", "tgt")
    assert (len(src.vocab), len(tgt.vocab)) == (320, 310)
    assert "и" in "".join(tgt.vocab.pieces)
    assert "и" not in "".join(src.vocab.pieces)


def test_the_size_that_does_not_fit_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"tokenizer.tgt_vocab_size: 90000"):
        build(tmp_path / "x", shared=False, tgt_vocab_size=90_000)
    with pytest.raises(errors.ConfigError, match=r"tokenizer.vocab_size \(source\): 90000"):
        build(tmp_path / "x", shared=False, vocab_size=90_000)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_folder_and_the_next_start_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tokenizer"
    rename = os.rename

    class Killed(BaseException):
        pass

    def kill(source: Path, target: Path) -> None:
        assert (Path(source) / "tokenizer.json").exists()
        raise Killed

    monkeypatch.setattr(os, "rename", kill)
    monkeypatch.setattr(files, "remove_tree", lambda path: None)
    with pytest.raises(Killed):
        build(folder, shared=True)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-tokenizer"]
    (tmp_path / ".tmp-tokenizer" / "leftover").touch()
    monkeypatch.undo()
    assert os.rename is rename
    build(folder, shared=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
    assert not (folder / "leftover").exists()


@pytest.mark.parametrize("damage", ["tokenizer.json", "spm.model", "version", "garbage", "model"])
def test_a_broken_folder_is_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "tokenizer"
    build(folder, shared=True)
    match damage:
        case "version":
            (folder / "tokenizer.json").write_text('{"format": 99, "shared": 1, "lowercase": 0}')
        case "garbage":
            (folder / "tokenizer.json").write_text("[]")
        case "model":
            (folder / "spm.model").write_bytes((folder / "spm.model").read_bytes()[:-100])
        case name:
            (folder / name).unlink()
    with pytest.raises(errors.ModelError, match=str(folder)):
        tokenizer.Tokenizer.load(folder, "src")


def foreign(**ids: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=100, minloglevel=2, **ids
    )
    return model.getvalue()


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"unk_id": 3, "bos_id": -1, "eos_id": 0, "pad_id": 1}, (3, 100, 0, 1, 101)),
        ({"bos_id": -1, "eos_id": -1, "pad_id": -1}, (0, 100, 101, 102, 103)),
        ({}, (0, 1, 2, 100, 101)),
        ({"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}, (1, 2, 3, 0, 100)),
    ],
)
def test_ready_models_keep_their_special_ids_and_get_the_missing_ones(
    tmp_path: Path, ids: dict[str, int], expected: tuple[int, ...]
) -> None:
    (tmp_path / "own.model").write_bytes(foreign(**ids))
    tokenizer.adopt_models(tmp_path / "tokenizer", tmp_path / "own.model", None, lowercase=False)
    (tmp_path / "own.model").unlink()
    machine = tokenizer.Tokenizer.load(tmp_path / "tokenizer", "tgt")
    found = machine.vocab
    assert (found.unk_id, found.bos_id, found.eos_id, found.pad_id, len(found)) == expected
    ids_of_text = machine.encode(CORPUS[0])
    marked = [found.bos_id, *ids_of_text, found.eos_id, found.pad_id]
    assert machine.decode(marked) == CORPUS[0]


def test_ready_models_of_two_sides_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(foreign())
    (tmp_path / "b.model").write_bytes(foreign(pad_id=3))
    folder = tmp_path / "tokenizer"
    tokenizer.adopt_models(folder, tmp_path / "a.model", tmp_path / "b.model", lowercase=True)
    assert tokenizer.Tokenizer.load(folder, "src").vocab.pad_id == 100
    assert tokenizer.Tokenizer.load(folder, "tgt").vocab.pad_id == 3
    assert (
        tokenizer.Tokenizer.load(folder, "src").decode(
            tokenizer.Tokenizer.load(folder, "src").encode("ABER")
        )
        == "aber"
    )


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\0" * 99, pickle.dumps({"a": 1}), foreign()[:-100]]
)
def test_what_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.model"
    path.write_bytes(content)
    with pytest.raises(errors.ConfigError, match="own.model: is no SentencePiece model"):
        tokenizer.adopt_models(tmp_path / "tokenizer", path, None, lowercase=False)
    with pytest.raises(errors.ConfigError, match="none.model: no such file"):
        tokenizer.adopt_models(
            tmp_path / "tokenizer", tmp_path / "none.model", None, lowercase=False
        )
    assert list(tmp_path.iterdir()) == [path]
