"""`nmt check`: each fault is found, named with place, count and line; a clean corpus has none."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nmt.data import survey_pairs
from nmt.runtime import locks

WORDS = ["ba", "de", "ki", "lo", "mu", "na", "po", "ri"]
SIZES = {"train": 120, "valid": 20, "test": 20}
QUIET = ("check", "c.yaml", "--no-probe", "--quiet")


@pytest.fixture
def clean(configure: Callable[..., Path]) -> Callable[..., None]:
    """A function that writes a configuration and corpora without any fault."""

    def write(encoder: str = "rnn", **changes: Any) -> None:
        training = {"warmup_updates": 1, "validation_interval": 2, **changes.pop("training", {})}
        configure(encoder, training=training, **changes)
        generator = random.Random(3)
        seen: set[tuple[str, ...]] = set()
        for name, size in SIZES.items():
            lines: list[tuple[str, ...]] = []
            while len(lines) < size:
                words = tuple(generator.choices(WORDS, k=6))
                if words not in seen:
                    seen.add(words)
                    lines.append(words)
            for side, mark in (("src", ""), ("tgt", "x")):
                text = "".join(" ".join(word + mark for word in words) + "\n" for words in lines)
                Path(f"{name}.{side}").write_text(text)

    return write


def lines_of(path: str) -> list[bytes]:
    return Path(path).read_bytes().split(b"\n")[:-1]


def put(path: str, lines: list[bytes]) -> None:
    Path(path).write_bytes(b"".join(line + b"\n" for line in lines))


def replace(path: str, number: int, text: bytes) -> None:
    """Changes line `number`, counted from 1."""
    lines = lines_of(path)
    lines[number - 1] = text
    put(path, lines)


def copy_line(source: str, target: str, *, begin: int, end: int, sides: tuple[str, ...]) -> None:
    for side in sides:
        replace(f"{target}.{side}", end, lines_of(f"{source}.{side}")[begin - 1])


def test_clean_corpus_has_no_finding_and_leaves_nothing(clean, nmt):
    clean()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = nmt("check", "c.yaml")
    assert (done.code, done.err) == (0, "")
    assert "0 errors, 0 warnings, 0 notes" in done.text
    for part in ("Files", "Pairs", "Tokens", "parameters", "target tokens a second", "would start"):
        assert part in done.text
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


BOTH = ("src", "tgt")
# A fault: how it comes about, the exit status, and the whole beginning of its line.
FAULTS: dict[str, tuple[Callable[[], object], int, str]] = {
    "missing": (lambda: Path("train.src").unlink(), 1, "error: train.src: no such file."),
    "empty file": (lambda: put("valid.tgt", []), 1, "error: valid.tgt: has no line."),
    "folder": (
        lambda: Path("train.src").rename("t") and Path("train.src").mkdir(),
        1,
        "error: train.src: is a folder",
    ),
    "UTF-16": (
        lambda: Path("test.src").write_bytes(Path("test.src").read_text().encode("utf-16")),
        1,
        "error: test.src: looks like UTF-16, not UTF-8.",
    ),
    "BOM": (
        lambda: replace("train.src", 1, b"\xef\xbb\xbf" + lines_of("train.src")[0]),
        0,
        "warning: train.src: begins with a byte order mark, which is left out (1, line 1).",
    ),
    "invalid UTF-8": (
        lambda: [replace("train.tgt", n, b"bax \xff dex kix lox mux nax") for n in (7, 9)],
        0,
        "warning: train.tgt: lines that are not valid UTF-8, whose bad bytes are replaced "
        "(2, first: 7).",
    ),
    "carriage return": (
        lambda: replace("train.src", 5, lines_of("train.src")[4].replace(b" ", b"\r", 1)),
        0,
        "warning: train.src: carriage returns within lines: only a newline ends a line (1, line 5).",
    ),
    "replacement character": (
        lambda: replace("train.src", 4, "b\ufffd".encode() + lines_of("train.src")[3]),
        0,
        "warning: train.src: replacement characters (U+FFFD), which a wrong conversion left "
        "(1, line 4).",
    ),
    "unequal": (
        lambda: put("train.tgt", lines_of("train.tgt")[:-1]),
        1,
        "error: train.src + train.tgt: differ in their number of lines (120 and 119).",
    ),
    "empty pairs": (
        lambda: [replace("train.tgt", n, b" \t") for n in (3, 8)],
        0,
        "warning: train.src + train.tgt: pairs with an empty side, which are no translations "
        "(2 of 120, first: 3).",
    ),
    "copies": (
        lambda: [replace("train.tgt", n, lines_of("train.src")[n - 1]) for n in (6, 60)],
        0,
        "warning: train.src + train.tgt: pairs whose target is a copy of the source "
        "(2 of 120, first: 6).",
    ),
    "duplicate pairs": (
        lambda: [copy_line("train", "train", begin=2, end=n, sides=BOTH) for n in (11, 13)],
        0,
        "warning: train.src + train.tgt: pairs that stood there before (2 of 120, first: 11).",
    ),
    "duplicate sources": (
        lambda: [copy_line("train", "train", begin=2, end=n, sides=("src",)) for n in range(9, 24)],
        0,
        "warning: train.src + train.tgt: sources that stood there before, with another target "
        "(15 of 120, first: 9).",
    ),
    "test pair in training": (
        lambda: copy_line("test", "train", begin=4, end=30, sides=BOTH),
        0,
        "warning: test.src + test.tgt: pairs that are in training too (1 of 20, line 4).",
    ),
    "validation source in training": (
        lambda: copy_line("valid", "train", begin=5, end=30, sides=("src",)),
        0,
        "warning: valid.src + valid.tgt: sources that are in training too, with another target "
        "(1 of 20, line 5).",
    ),
    "unknown words": (
        lambda: replace("test.src", 3, b"zz yy ba de ki lo"),
        0,
        "warning: test.src + test.tgt: src tokens that are unknown or spelled in bytes "
        "(10 of ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_alone(name, clean, nmt):
    clean()
    make, code, wanted = FAULTS[name]
    make()
    done = nmt(*QUIET)
    assert (done.code, done.err) == (code, ""), done
    assert [line[: len(wanted)] for line in done.lines] == [wanted]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"data": {"max_length": 7}}, "pairs longer than 7 tokens, which training drops (2 of 120"),
        ({"data": {"max_length_ratio": 2.0}}, "pairs of which one side has more than 2 times the tokens"),
    ],
)  # fmt: skip
def test_pairs_that_the_filters_drop_are_counted(changes, wanted, clean, nmt):
    clean(**changes)
    for number in (10, 20):
        replace("train.tgt", number, b"bax " * 20)
    done = nmt(*QUIET)
    assert (done.code, len(done.lines)) == (0, 1), done
    assert wanted in done.text and "first: 10" in done.text


def test_lengths_that_do_not_go_together_are_found(clean, nmt):
    clean()
    generator = random.Random(1)
    for side in BOTH:
        put(f"train.{side}", [b"ba%d " % n + b"de " * generator.randint(2, 9) for n in range(250)])
    assert "lengths of source and target have nothing to do with each other" in nmt(*QUIET).text


def test_one_overlong_line_does_not_make_lengths_unrelated(clean, nmt):
    clean()
    generator = random.Random(1)
    numbers = [generator.randint(2, 12) for _ in range(250)]
    put("train.src", [b"ba%d " % n + b"de " * k for n, k in enumerate(numbers)])
    put("train.tgt", [b"bax%d " % n + b"dex " * k for n, k in enumerate(numbers)])
    replace("train.src", 200, b"ba " * 4000)
    assert "have nothing to do with each other" not in nmt(*QUIET).text


@pytest.mark.parametrize(
    ("kind", "bad"), [("tsv", "ba\n"), ("jsonl", '{"src": 3}\n'), ("jsonl", "{\n")]
)
def test_malformed_lines_are_counted(kind, bad, clean, nmt):
    clean()
    good = [b.decode() for b in lines_of("train.src")]
    form = {"tsv": "{0}\t{0}x\n", "jsonl": '{{"src": "{0}", "tgt": "{0}x"}}\n'}[kind]
    text = [form.format(line) for line in good]
    Path(f"bad.{kind}").write_text("".join([*text[:4], bad, *text[4:], bad]))
    done = nmt(*QUIET, "--set", f"data.train=[{{{kind}: bad.{kind}}}]")
    assert done.code == 1
    assert f"error: bad.{kind}: lines that are no pair (2, first: 5)." in done.text


def test_pairs_of_an_earlier_corpus_are_found(clean, nmt):
    clean()
    both = "{src: train.src, tgt: train.tgt}"
    done = nmt(*QUIET, "--set", f"data.train=[{both}, {both}]")
    assert "pairs that an earlier training corpus has too (120 of 120, first: 1)" in done.text


def test_shards_are_read_one_after_the_other(clean, nmt):
    clean()
    for side in ("src", "tgt"):
        lines = lines_of(f"train.{side}")
        put(f"p.1.{side}", lines[:50])
        put(f"p.2.{side}", lines[50:])
    tsv = [a + b"\t" + b for a, b in zip(lines_of("train.src"), lines_of("train.tgt"), strict=True)]
    put("q.1.tsv", tsv[:50])
    put("q.2.tsv", tsv[50:])
    for corpus in ("{src: 'p.*.src', tgt: 'p.*.tgt'}", "{tsv: 'q.*.tsv'}"):
        done = nmt("check", "c.yaml", "--no-probe", "--json", "--set", f"data.train=[{corpus}]")
        shown = json.loads(done.text)
        assert done.code == 0
        assert shown["pairs"]["data.train.0"]["pairs"] == len(tsv)


def test_a_small_corpus_beside_a_large_one_is_not_taken_for_empty(clean, nmt, monkeypatch):
    monkeypatch.setattr(survey_pairs, "MAX_KEPT", 20)
    clean()
    for side in ("src", "tgt"):
        put(f"few.{side}", [b"na " + line for line in lines_of(f"train.{side}")[:3]])
    both = "[{src: train.src, tgt: train.tgt}, {src: few.src, tgt: few.tgt}]"
    done = nmt("check", "c.yaml", "--no-probe", "--set", f"data.train={both}")
    assert "no pair is left" not in done.text


def test_what_a_run_takes_over_from_a_model_is_looked_at(clean, nmt):
    clean()
    assert nmt("train", "c.yaml", "--quiet").code == 0
    text = yaml.safe_load(Path("c.yaml").read_text())
    del text["tokenizer"], text["model"]
    text["run_dir"], text["training"]["init_from"] = "tuned", "run"
    Path("tuned.yaml").write_text(yaml.safe_dump(text))
    done = nmt("check", "tuned.yaml", "--no-probe")
    assert (done.code, "of training.init_from" in done.text) == (0, True)
    lost = ("--set", "training.init_from=nowhere")
    nmt("check", "tuned.yaml", *lost).assert_refused(1, "nowhere: there is no such model folder")
    assert nmt("train", "tuned.yaml", "--quiet").code == 0
    shutil.move("run", "gone")
    # The run goes on without that folder, and so does the check, whatever else is wrong.
    done = nmt("check", "tuned.yaml", "--no-probe", "--set", "training.max_updates=3")
    assert (done.code, "would go on from update 2" in done.text) == (0, True)
    done = nmt("check", "tuned.yaml", "--no-probe", "--set", "seed=9")
    assert done.code == 2 and "started with another value of seed" in done.text


def test_large_corpus_is_sampled_by_source_and_overlap_stays_exact(clean, nmt, monkeypatch):
    monkeypatch.setattr(survey_pairs, "MAX_COMPARED", 35)  # one in 7, which does not divide 120
    clean()
    for number in range(1, 21):
        copy_line("test", "train", begin=number, end=5 * number, sides=BOTH)
    put("train.src", lines_of("train.src") * 2)
    put("train.tgt", lines_of("train.tgt") * 2)
    shown = json.loads(nmt("check", "c.yaml", "--no-probe", "--json").text)
    counts = shown["pairs"]["data.train.0"]
    assert counts["pairs"] == 240 and 0 < counts["compared"] < 120
    found = {finding["what"]: finding for finding in shown["findings"]}
    # Both copies of a pair are compared or neither, so half of what is compared is repeated.
    assert found["pairs that stood there before"]["count"] == counts["compared"] / 2
    assert found["pairs that are in training too"]["count"] == 20


def test_settings_that_do_not_fit_the_data_are_found(clean, nmt):
    clean(training={"warmup_updates": 9})
    assert "warning: training.warmup_updates: the run ends (2 updates" in nmt(*QUIET).text
    clean(tokenizer={"type": "bpe", "vocab_size": 9000})
    done = nmt(*QUIET)
    assert done.code == 2 and "is more than the training text allows (at most" in done.text


def test_a_factor_of_noam_that_is_meant_as_a_peak_is_found(clean, nmt):
    noam = ("--set", "training.schedule=noam")
    clean()
    done = nmt(*QUIET, *noam)
    assert done.code == 0
    assert "warning: training.learning_rate: is a factor on the curve of noam" in done.text
    assert "noam" not in nmt(*QUIET, *noam, "--set", "training.learning_rate=1.0").text


def test_a_memory_limit_that_training_would_refuse_is_refused(clean, nmt):
    clean()
    limit = ("--set", "training.memory_limit=1")
    refused = nmt("train", "c.yaml", *limit)
    assert refused.code == 2
    # Which names the memory that the process has by then.
    told = [re.sub(r"\d+ MiB", "", done.err) for done in (refused, nmt(*QUIET, *limit))]
    assert told[0] == told[1] and "before it trains ()" in told[0]


def test_disk_that_is_too_small_is_an_error(clean, nmt, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    clean()
    done = nmt(*QUIET)
    assert done.code == 1 and "error: run: checkpoints and model take about" in done.text


def test_run_folder_is_described(clean, nmt):
    clean()
    assert nmt("train", "c.yaml", "--quiet").code == 0
    assert (
        "the run there is finished (2 updates). Raise the limit to go on"
        in nmt("check", "c.yaml", "--no-probe").text
    )
    longer = ("check", "c.yaml", "--no-probe", "--set", "training.max_updates=3")
    done = nmt(*longer)
    assert "would go on from update 2" in done.text and "of the run so far" in done.text
    with locks.RunLock(Path("run")):
        assert "warning: run: another process trains there (process " in nmt(*longer).text
    done = nmt(*longer, "--set", "seed=9")
    assert done.code == 2 and "started with another value of seed" in done.text


def test_run_folder_that_cannot_be_is_an_error(clean, nmt):
    clean(run_dir="train.src")
    done = nmt(*QUIET)
    assert (
        done.code == 1 and "error: train.src: there is a file where a folder is wanted" in done.text
    )


def test_json_has_the_figures(clean, nmt):
    clean(training={"max_updates": 12})
    shown = json.loads(nmt("check", "c.yaml", "--json").text)
    assert shown["counts"] == {"error": 0, "warning": 0, "note": 0}
    assert shown["tokens"]["corpora"]["data.train.0"]["tgt_mean"] == 7.0
    training = shown["training"]
    assert (training["epoch_pairs"], training["epoch_tokens"], training["updates"]) == (
        120,
        840,
        12,
    )
    assert training["probe"]["tokens_per_second"] > 0 and training["probe"]["is_whole"]
    assert shown["run_folder"]["action"] == "start"
    assert nmt("train", "c.yaml", "--quiet").code == 0
    model = json.loads(nmt("inspect", "run", "--json").text)
    assert shown["model"]["parameters"] == model["parameters"]


def test_wrong_configuration_is_one_line(clean, nmt):
    clean()
    nmt("check", "c.yaml", "--set", "training.max_updats=3").assert_refused(2, "unknown key")
    nmt("check", "none.yaml").assert_refused(2, "there is no such file")


@pytest.mark.parametrize("setting", ["coverage_penalty=0.2", "alignments=true"])
def test_what_the_model_cannot_do_is_found_before_training(setting, clean, nmt):
    clean(model={"decoder": {"type": "rnn", "hidden_size": 8, "attention": "none"}})
    flags = ("--set", f"decoding.{setting}")
    wanted = f"decoding.{setting.split('=')[0]}: this model has no attention"
    done = nmt(*QUIET, *flags)
    assert done.code == 2 and wanted in done.text
    done = nmt("train", "c.yaml", *flags)
    assert done.code == 2 and wanted in done.err
    assert not list(Path("run/checkpoints").glob("*")), "nothing was trained"


def align(nmt: Callable[..., Any], lines: list[bytes]) -> Any:
    put("links", lines)
    train = "data.train=[{src: train.src, tgt: train.tgt, alignments: links}]"
    guided = "training.guided_alignment_weight=0.1"
    return nmt(*QUIET, "--set", train, "--set", guided)


@pytest.mark.parametrize(
    ("number", "line", "text"),
    [
        (3, b"0-0 1:1", "links:3: wants pairs of words such as 0-0 1-2 (given: '1:1')"),
        (120, b"0-0 6-5", "links:120: source word 6, counted from 0, is not there: the line has 6"),
        (1, b"5-6", "links:1: target word 6, counted from 0, is not there: the line has 6"),
    ],
)
def test_alignments_are_read_before_training(number, line, text, clean, nmt):
    clean()
    links = [b"0-0 5-5", b""] * 60
    assert align(nmt, links).code == 0
    links[number - 1] = line
    done = align(nmt, links)
    assert done.code == 1 and f"error: {text}" in done.text
    # A missing line is found once, where lines are counted.
    done = align(nmt, [b"0-0"] * 119)
    assert done.code == 1 and done.text.count("error: ") == 1
    assert "differ in their number of lines (120 and 119)" in done.text


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_corpus_that_changed_since_is_found_as_training_finds_it(name, clean, nmt):
    clean(training={"max_updates": 2})
    assert nmt("train", "c.yaml").code == 0
    more = ("--set", "training.max_updates=4")
    assert "would go on from update 2" in nmt("check", "c.yaml", "--no-probe", *more).text
    replace(f"{name}.src", 7, b"lo lo lo lo lo lo")
    refused = nmt("train", "c.yaml", *more)
    assert refused.code == 1
    done = nmt("check", "c.yaml", "--no-probe", *more)
    assert done.code == 1 and "`nmt train` would refuse to start there" in done.text
    (line,) = [line for line in done.text.splitlines() if "error: run: " in line]
    assert line.removeprefix("error: ") in refused.err


def test_a_folder_of_something_else_is_refused_as_training_does(clean, nmt):
    clean()
    Path("run").mkdir()
    Path("run/config.yaml").write_text("mine")
    assert nmt("train", "c.yaml").code == 2
    done = nmt(*QUIET)
    assert done.code == 2 and "holds what no run has written" in done.text


def test_a_validation_text_of_unequal_sides_is_refused_before_any_work(clean, nmt):
    clean()
    put("valid.src", lines_of("valid.src")[:-1])
    done = nmt("train", "c.yaml")
    assert done.code == 1 and "valid.src" in done.err
    assert not Path("run").exists()
