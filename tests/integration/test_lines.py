"""Every rule for lines, through `nmt translate`, for every family."""

import gzip
import lzma
import select
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from nmt.cli import translate
from nmt.runtime import lines

FAMILIES = ["rnn", "cnn", "transformer"]

# What Python takes for line ends or for blanks, and what might end a text elsewhere.
ODD = {
    "U+2028": "ba\u2028de",
    "U+2029": "ba\u2029de",
    "U+0085": "ba\u0085de",
    "form feed": "ba\x0cde",
    "vertical tab": "ba\x0bde",
    "file separator": "ba\x1cde",
    "carriage return": "ba\rde",
    "NUL": "ba\0de",
    "escape": "ba\x1bde",
    "byte order mark": "\ufeffba de",
    "unknown word": "ba \U0001f600 de",
    "sign of sentencepiece": "ba \u2581 de",
    "special pieces": "<s> ba </s> <pad> <unk> de",
}
BLANK = ["", " ", "\t \t", "\u2028", "\u0085", "\x0c", "\x0b\x1c", "\u3000", "\r", "\u00a0"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, learned: Callable[[str], Path]) -> Path:
    """A run folder whose model has learnt its task."""
    return learned(request.param) / "run"


@pytest.fixture
def any_model(learned: Callable[[str], Path]) -> Path:
    """A run folder, for claims in which the model plays no part."""
    return learned("cnn") / "run"


@pytest.fixture
def translations(nmt) -> Callable[..., list[str]]:
    """A function that returns the translations of bytes, after a check that nothing else is said."""

    def translate_bytes(model: Path, stdin: bytes, *flags: str) -> list[str]:
        done = nmt("translate", "--model", model, *flags, stdin=stdin)
        assert (done.code, done.err) == (0, "")
        return done.lines

    return translate_bytes


def encoded(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def test_blank_lines_stay_blank_and_nothing_moves(model, translations):
    words = ["ba de", "ki", "lo mu na"]
    wanted = translations(model, encoded(words))
    mixed = [*BLANK, words[0], *BLANK, words[1], words[2], *BLANK]
    found = translations(model, encoded(mixed))
    blanks = [""] * len(BLANK)
    assert found == [*blanks, wanted[0], *blanks, wanted[1], wanted[2], *blanks]


@pytest.mark.parametrize("stdin", [b"", b"\n", b"\n\n\n", b" ", b"\r\n\r\n"])
def test_input_without_words_gives_as_many_blank_lines(stdin: bytes, model, translations):
    num_lines = stdin.count(b"\n") + (not stdin.endswith(b"\n") and stdin != b"")
    assert translations(model, stdin) == [""] * num_lines


def test_odd_characters_neither_end_nor_add_a_line(model, translations):
    mixed = [text for odd in ODD.values() for text in (odd, "ki lo")]
    flags = ("--precision", "fp64", "--max-length", "30")
    found = translations(model, encoded(mixed), *flags)
    assert len(found) == len(mixed)
    [wanted] = translations(model, b"ki lo\n", *flags)
    assert found[1::2] == [wanted] * len(ODD)
    for text, translation in zip(mixed, found, strict=True):
        assert translations(model, encoded([text]), *flags) == [translation]


def test_carriage_return_before_the_newline_does_not_count(model, translations):
    texts = ["ba de", "ki", "", "lo mu"]
    wanted = translations(model, encoded(texts))
    assert translations(model, encoded([f"{text}\r" for text in texts])) == wanted


def test_last_line_may_lack_its_end(model, translations):
    wanted = translations(model, b"ba de\nki lo\n")
    assert translations(model, b"ba de\nki lo") == wanted
    assert translations(model, b"ba de\nki lo\r") == wanted


def test_invalid_utf8_is_replaced_and_counted_in_one_warning(model, nmt, translations):
    texts = ["ba \ufffd de", "ki", "\ufffd", "lo \ufffd\ufffd"]
    stdin = b"ba \xff de\nki\n\xc3\nlo \xf0\x9f \x80\n"
    texts[3] = stdin.split(b"\n")[3].decode(errors="replace")
    done = nmt("translate", "--model", model, "--max-length", "30", stdin=stdin)
    assert (done.code, done.messages) == (
        0,
        ["lines that were not valid UTF-8, whose bad bytes were replaced: 3"],
    )
    assert done.lines == translations(model, encoded(texts), "--max-length", "30")


def test_line_of_100000_characters_is_cut_and_counted(model, nmt, translations):
    long = ("ba de ki lo " * 8334)[:100_000]
    unknown = "x" * 100_000
    stdin = encoded(["ki", long, "lo mu", unknown, "na"])
    done = nmt("translate", "--model", model, "--max-length", "12", stdin=stdin)
    assert done.code == 0
    assert done.messages == ["lines that were longer than the model reads and were cut: 2"]
    assert len(done.lines) == 5
    others = translations(model, encoded(["ki", "lo mu", "na"]), "--max-length", "12")
    assert done.lines[::2] == others
    # Cut, not dropped: the line says what its beginning says.
    [beginning] = nmt(
        "translate", "--model", model, "--max-length", "12", stdin=long[:5000].encode()
    ).lines
    assert done.lines[1] == beginning != ""


def test_line_is_cut_exactly_at_the_limit(learned, nmt):
    # A word is a token here; the end of the sentence is one, too.
    argv = ["translate", "--model", learned("rnn") / "run", "--max-length", "8"]
    fits = nmt(*argv, stdin=b" ".join([b"ba"] * 1022 + [b"de"]))
    assert (fits.code, fits.err) == (0, "")
    cut = nmt(*argv, stdin=b" ".join([b"ba"] * 1022 + [b"de", b"ki"]))
    assert cut.messages == ["lines that were longer than the model reads and were cut: 1"]
    assert cut.out == fits.out


@pytest.mark.parametrize("form", ["text", "moses"])
def test_nbest_gives_so_many_lines_for_each_line_best_first(form: str, model, nmt):
    texts = ["ba de", "", "ki lo mu"]
    best = nmt("translate", "--model", model, stdin=encoded(texts)).lines
    argv = ["translate", "--model", model, "--nbest", "3", "--format", form]
    done = nmt(*argv, stdin=encoded(texts))
    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == 9
    if form == "text":
        assert done.lines[::3] == best
        assert done.lines[3:6] == [""] * 3
        return
    rows = [line.split(" ||| ") for line in done.lines]
    assert [row[0] for row in rows] == list("000111222")
    assert [row[1] for row in rows[::3]] == best
    assert rows[3:6] == [["1", "", "logprob=0.000000", "0.000000"]] * 3
    for begin in (0, 6):
        scores = [float(row[3]) for row in rows[begin : begin + 3]]
        assert scores == sorted(scores, reverse=True)
        assert all(score < 0.0 for score in scores)


def test_length_penalty_of_zero_scores_by_the_plain_sum(model, nmt):
    argv = ["translate", "--model", model, "--format", "moses"]
    [line] = nmt(*argv, "--length-penalty", "0", stdin=b"ba de ki\n").lines
    _, _, features, score = line.split(" ||| ")
    assert features == f"logprob={score}"
    [line] = nmt(*argv, "--length-penalty", "1", stdin=b"ba de ki\n").lines
    _, _, features, score = line.split(" ||| ")
    assert -float(features.partition("=")[2]) > -float(score) > 0.0


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_batch_size_changes_no_line(size: int, model, translations):
    words = ["ba de ki lo mu na po ri"[: 3 * (number % 8) + 2] for number in range(25)]
    texts = [*words, "", "na " * 30, *reversed(words)]
    wanted = translations(model, encoded(texts), "--precision", "fp64")
    found = translations(model, encoded(texts), "--precision", "fp64", "--batch-size", str(size))
    assert found == wanted


def test_lines_of_mixed_length_come_in_their_order(model, translations):
    texts = ["ba de ki lo"[: 3 * (number * 7 % 4) + 2] for number in range(20)]
    alone = {
        text: translations(model, encoded([text]), "--precision", "fp64")[0] for text in set(texts)
    }
    assert len(set(alone.values())) == 4
    found = translations(model, encoded(texts), "--precision", "fp64")
    assert found == [alone[text] for text in texts]


def test_chunks_neither_show_nor_restart_the_numbers(model, nmt, monkeypatch):
    texts = ["ba de", "", "ki", "lo mu na", "po", "ri ba", "de", "mu"]
    argv = ["translate", "--model", model, "--format", "moses", "--precision", "fp64"]
    whole = nmt(*argv, stdin=encoded(texts)).lines
    monkeypatch.setattr(translate, "CHUNK_LINES", 3)
    chunked = nmt(*argv, stdin=encoded(texts)).lines
    assert [row.split(" ||| ")[:2] for row in chunked] == [row.split(" ||| ")[:2] for row in whole]
    assert [int(row.split(" ||| ")[0]) for row in chunked] == list(range(8))


def test_input_is_read_in_blocks_that_end_anywhere(any_model, translations, monkeypatch):
    stdin = encoded(["ba d\u00e9", "", "ki", "lo mu na \U0001f600", "po"] * 2)
    wanted = translations(any_model, stdin, "--precision", "fp64")
    monkeypatch.setattr(lines, "BLOCK", 3)
    assert translations(any_model, stdin, "--precision", "fp64") == wanted


def test_compressed_input_reads_like_plain_input(any_model, nmt):
    plain = encoded(["ba de", "", "ki lo", "mu"])
    Path("in.txt").write_bytes(plain)
    Path("in.gz").write_bytes(gzip.compress(plain))
    Path("in.xz").write_bytes(lzma.compress(plain))
    Path("in.zst").write_bytes(zstandard.compress(plain))
    wanted = nmt("translate", "--model", any_model, stdin=plain).out
    assert wanted.count(b"\n") == 4
    for name in ("in.txt", "in.gz", "in.xz", "in.zst"):
        done = nmt("translate", "--model", any_model, "--input", name)
        assert (done.code, done.out, done.err) == (0, wanted, "")


def test_output_file_holds_all_and_stdout_nothing(any_model, nmt):
    wanted = nmt("translate", "--model", any_model, stdin=b"ba de\n\nki").out
    Path("out.txt").write_text("what was there before\n" * 10)
    done = nmt("translate", "--model", any_model, "--output", "out.txt", stdin=b"ba de\n\nki")
    assert (done.code, done.out, done.err) == (0, b"", "")
    assert Path("out.txt").read_bytes() == wanted


@pytest.mark.parametrize("suffix", ["gz", "xz", "zst"])
def test_torn_input_is_named_and_leaves_the_output_file_as_it_was(suffix, any_model, nmt):
    compress = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}[suffix]
    data = compress(encoded([f"ba de {number}" for number in range(200)]))
    Path(f"in.{suffix}").write_bytes(data[: len(data) // 2])
    Path("out.txt").write_text("as it was\n")
    argv = ["translate", "--model", any_model, "--input", f"in.{suffix}", "--output", "out.txt"]
    nmt(*argv, "--max-length", "5").assert_refused(1, f"in.{suffix}: cannot be decompressed")
    assert Path("out.txt").read_text() == "as it was\n"
    assert sorted(path.name for path in Path().iterdir()) == [f"in.{suffix}", "out.txt"]


def test_open_pipe_gets_its_lines_before_more_is_written(any_model, nmt, start):
    wanted = nmt("translate", "--model", any_model, stdin=b"ba de\nki\n\nlo mu\n").out
    process = start("translate", "--model", any_model, bufsize=0)
    found = b""
    # The last line is not whole until the pipe is closed.
    for text, num_lines in ((b"ba de\nki\n", 2), (b"\n", 3), (b"lo mu", 3)):
        process.stdin.write(text)
        while found.count(b"\n") < num_lines:
            assert select.select([process.stdout], [], [], 60.0)[0], "nothing comes out"
            found += process.stdout.read(4096)
    process.stdin.close()
    found += process.stdout.read()
    assert (process.wait(), found, process.stderr.read()) == (0, wanted, b"")


def test_reader_that_closes_stdout_ends_it_with_one_line(any_model, start):
    process = start("translate", "--model", any_model, bufsize=0)
    process.stdin.write(b"ba de\n")
    assert process.stdout.readline().endswith(b"\n")
    # As `| head -1` does it.
    process.stdout.close()
    process.stdin.write(b"ki lo\n")
    process.stdin.close()
    error = process.stderr.read().decode()
    assert process.wait() == 1
    assert error.startswith("nmt: stdout: closed by its reader")
    assert error.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stdout_is_one_line(any_model, start):
    with open("/dev/full", "wb") as full:
        process = start("translate", "--model", any_model, stdout=full)
        error = process.communicate(b"ba de\n", timeout=60.0)[1].decode()
    assert process.returncode == 1
    assert error.startswith("nmt: stdout: cannot be written (No space left on device)")
    assert error.count("\n") == 1


def test_greedy_search_and_wide_beams_keep_the_rules(model, translations):
    for beam in ("1", "8"):
        found = translations(model, encoded(["ba", "", " ", "de ki"]), "--beam-size", beam)
        assert len(found) == 4
        assert found[1:3] == ["", ""]
        assert found[0] and found[3]


def test_shortest_and_longest_targets_are_kept(learned, translations):
    # A word is a token here.
    model = learned("rnn") / "run"
    [text] = translations(model, b"ba de\n", "--max-length", "2")
    assert len(text.split(" ")) == 1
    [text] = translations(model, b"ba\n", "--min-length", "4")
    assert len(text.split(" ")) >= 4
