"""Corpora of every form, tokenizers of every kind, and every way to train."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import zstandard

OPTIMIZERS = ["adam", "adamw"]
SCHEDULES = ["inverse_sqrt", "noam", "cosine", "linear", "plateau", "constant"]
EACH_UPDATE = {"logging_interval": 1, "validation_interval": 1}


def pairs(name: str) -> list[tuple[str, str]]:
    sides = [Path(f"{name}.{side}").read_text().split("\n")[:-1] for side in ("src", "tgt")]
    return list(zip(*sides, strict=True))


def write_tsv(name: str) -> dict[str, str]:
    Path(f"{name}.tsv").write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs(name)))
    return {"tsv": f"{name}.tsv"}


def write_jsonl(name: str) -> dict[str, str]:
    lines = [json.dumps({"tgt": tgt, "id": 1, "src": src}) + "\n" for src, tgt in pairs(name)]
    Path(f"{name}.jsonl").write_text("".join(lines))
    return {"jsonl": f"{name}.jsonl"}


def write_compressed(
    suffix: str, compress: Callable[[bytes], bytes]
) -> Callable[[str], dict[str, str]]:
    def write(name: str) -> dict[str, str]:
        for side in ("src", "tgt"):
            data = Path(f"{name}.{side}").read_bytes()
            Path(f"{name}.{side}.{suffix}").write_bytes(compress(data))
        return {side: f"{name}.{side}.{suffix}" for side in ("src", "tgt")}

    return write


def write_windows(name: str) -> dict[str, str]:
    for side in ("src", "tgt"):
        data = Path(f"{name}.{side}").read_bytes()
        Path(f"{name}.{side}.crlf").write_bytes(data.replace(b"\n", b"\r\n")[:-2])
    return {side: f"{name}.{side}.crlf" for side in ("src", "tgt")}


FORMS: dict[str, Callable[[str], dict[str, str]]] = {
    "tsv": write_tsv,
    "jsonl": write_jsonl,
    "gz": write_compressed("gz", gzip.compress),
    "xz": write_compressed("xz", lzma.compress),
    "zst": write_compressed("zst", zstandard.compress),
    "windows": write_windows,
}


@pytest.mark.parametrize("form", FORMS)
def test_form_of_a_corpus_makes_no_difference(form, configure, nmt, open_run):
    # Normalisation would hide line ends that are taken for text.
    as_it_is = {"normalization": "identity"}
    configure("rnn", tokenizer=as_it_is)
    assert nmt("train", "c.yaml", "--set", "run_dir=plain").code == 0
    corpora = {name: FORMS[form](name) for name in ("train", "valid", "test")}
    configure("rnn", tokenizer=as_it_is, data={**corpora, "train": [corpora["train"]]})
    assert nmt("train", "c.yaml").code == 0
    assert open_run().sha256 == open_run("plain").sha256
    assert open_run().metrics == open_run("plain").metrics
    plain = nmt("evaluate", "--model", "plain", "--chrf").out
    assert nmt("evaluate", "--model", "run", "--chrf").out == plain != b""


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("tsv", "ba\tba\nde\n", "bad.tsv:2: wants two columns (given: 1)"),
        ("tsv", "ba\tba\tba\n", "bad.tsv:1: wants two columns (given: 3)"),
        ("jsonl", '{"src": "ba", "tgt": "ba"}\n{"src"\n', "bad.jsonl:2: is no JSON"),
        ("jsonl", '{"src": "ba"}\n', "bad.jsonl:1: lacks a text under src or tgt"),
        ("jsonl", "[1]\n", "bad.jsonl:1: lacks a text under src or tgt"),
    ],
)
def test_malformed_line_is_named(name, text, place, configure, nmt):
    configure("rnn")
    Path(f"bad.{name}").write_text(text)
    done = nmt("train", "c.yaml", "--quiet", "--set", f"data.train=[{{{name}: bad.{name}}}]")
    done.assert_refused(1, place)


def test_invalid_bytes_of_a_corpus_are_counted_once(configure, nmt):
    configure("rnn")
    Path("train.src").write_bytes(b"\xff ba\n" * 3 + Path("train.src").read_bytes())
    Path("train.tgt").write_bytes(b"ba\n" * 3 + Path("train.tgt").read_bytes())
    done = nmt("train", "c.yaml", "--quiet")
    assert (done.code, done.messages) == (
        0,
        ["train.src: lines that were not valid UTF-8, whose bad bytes were replaced: 3"],
    )


def test_corpora_without_weights_are_one_corpus(configure, nmt, open_run):
    configure("rnn", training={"max_updates": None, "max_epochs": 2, "logging_interval": 1})
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    for side in ("src", "tgt"):
        lines = Path(f"train.{side}").read_text().splitlines(keepends=True)
        Path(f"first.{side}").write_text("".join(lines[:23]))
        Path(f"rest.{side}").write_text("".join(lines[23:]))
    parts = "[{src: first.src, tgt: first.tgt}, {src: rest.src, tgt: rest.tgt}]"
    done = nmt("train", "c.yaml", "--set", f"data.train={parts}")
    assert done.code == 0
    assert any("first.src + first.tgt: 23 pairs read, 23 kept" in line for line in done.messages)
    assert open_run().sha256 == open_run("whole").sha256
    assert open_run().metrics[-1]["update"] == open_run("whole").metrics[-1]["update"]


def test_weights_decide_which_corpus_is_learnt(configure, nmt):
    # Two corpora teach the same source two targets; the one of the greater weight wins.
    configure("cnn", training={"max_updates": 60, "learning_rate": 0.02, "warmup_updates": 1})
    for name, word in (("some", "de"), ("many", "ki")):
        Path(f"{name}.src").write_text("ba\n" * 40)
        Path(f"{name}.tgt").write_text(f"{word}\n" * 40)
    for name, weights in (("de", (19, 1)), ("ki", (1, 19))):
        entries = [
            f"{{src: {corpus}.src, tgt: {corpus}.tgt, weight: {weight}}}"
            for corpus, weight in zip(("some", "many"), weights, strict=True)
        ]
        flags = ["--set", f"data.train=[{', '.join(entries)}]", "--set", f"run_dir={name}"]
        assert nmt("train", "c.yaml", *flags).code == 0
        assert nmt("translate", "--model", name, stdin=b"ba\n").lines == [name]


def test_weights_are_given_to_all_corpora_or_none(configure, nmt):
    entry = {"src": "train.src", "tgt": "train.tgt"}
    configure("rnn", data={"train": [{**entry, "weight": 1.0}, entry]})
    nmt("train", "c.yaml").assert_refused(2, "data.train: give every corpus a weight, or none")


def test_filters_drop_pairs_and_say_how_many(configure, nmt):
    configure("rnn", data={"max_length": 6, "max_length_ratio": 2.0})
    for side, lines in (("src", ["", "ba " * 9, "ba"]), ("tgt", ["ba", "ba " * 9, "ba " * 4])):
        with Path(f"train.{side}").open("a") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
    done = nmt("train", "c.yaml")
    assert done.code == 0
    assert (
        "train.src + train.tgt: 63 pairs read, 60 kept; dropped: 1 empty, "
        "1 longer than 6 tokens, 1 with a length ratio above 2" in done.messages
    )


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "word"])
def test_tokenizer_of_every_kind_trains_shared_and_apart(kind, configure, nmt):
    size = 20 if kind in {"bpe", "unigram"} else 300
    tokenizer = {"type": kind, "vocab_size": size, "byte_fallback": kind not in {"bpe", "unigram"}}
    configure("transformer", tokenizer=tokenizer)
    for shared, names in (("true", ["spm"]), ("false", ["src", "tgt"])):
        flags = ["--set", f"tokenizer.shared={shared}", "--set", f"run_dir=run-{shared}"]
        assert nmt("train", "c.yaml", *flags).code == 0
        assert (
            sorted(path.stem for path in Path(f"run-{shared}/tokenizer").glob("*.model")) == names
        )
        assert len(nmt("translate", "--model", f"run-{shared}", stdin=b"ba de\nki\n").lines) == 2


def test_separate_vocabularies_have_sizes_of_their_own(configure, nmt):
    apart = {"type": "bpe", "vocab_size": 290, "tgt_vocab_size": 280, "shared": False}
    configure("rnn", tokenizer=apart)
    assert nmt("train", "c.yaml").code == 0
    shown = json.loads(nmt("inspect", "run", "--json").text)
    assert shown["vocabulary"] == "290 source, 280 target pieces"
    weights = safetensors.torch.load_file("run/model.safetensors")
    assert sorted(weights[f"{side}_embedding.weight"].shape[0] for side in ("src", "tgt")) == [
        280,
        290,
    ]


def test_lowercase_reads_every_case_alike(configure, nmt, open_run):
    configure("rnn", tokenizer={"lowercase": True})
    assert nmt("train", "c.yaml").code == 0
    found = nmt("translate", stdin=b"ba de\nBA De\n").lines
    assert found[0] == found[1]
    for side in ("src", "tgt"):
        path = Path(f"train.{side}")
        path.write_text(path.read_text().upper())
    assert nmt("train", "c.yaml", "--set", "run_dir=upper").code == 0
    assert open_run("upper").metrics[0] == open_run().metrics[0]


def test_ready_tokenizer_gives_the_run_that_trained_it(configure, nmt, open_run):
    bpe = {"type": "bpe", "vocab_size": 290, "shared": False}
    configure("rnn", tokenizer=bpe)
    assert nmt("train", "c.yaml", "--set", "run_dir=trained").code == 0
    for side in ("src", "tgt"):
        Path("trained/tokenizer", f"{side}.model").rename(f"{side}.model")
    configure("rnn", tokenizer=None)
    ready = "tokenizer={src_model: src.model, tgt_model: tgt.model}"
    assert nmt("train", "c.yaml", "--set", ready).code == 0
    assert open_run().sha256 == open_run("trained").sha256
    # The folder keeps a copy, and needs the files no more.
    for side in ("src", "tgt"):
        Path(f"{side}.model").unlink()
    assert nmt("translate", "--model", "run", stdin=b"ba\n").code == 0
    done = nmt("train", "c.yaml", "--set", ready, "--set", "training.max_updates=3")
    assert done.code == 0


def test_one_ready_tokenizer_serves_both_sides(configure, nmt, open_run):
    configure("rnn", tokenizer={"type": "char"})
    assert nmt("train", "c.yaml", "--set", "run_dir=trained").code == 0
    configure("rnn", tokenizer=None)
    ready = "tokenizer={model: trained/tokenizer/spm.model}"
    assert nmt("train", "c.yaml", "--set", ready).code == 0
    assert open_run().sha256 == open_run("trained").sha256
    shown = json.loads(nmt("inspect", "run", "--json").text)
    assert shown["tokenizer"] == "ready model" and shown["vocabulary"].endswith("shared")


@pytest.mark.parametrize(("rate", "wins"), [(0.3, True), (0.001, False)])
def test_average_is_taken_where_it_is_better_than_the_best(rate, wins, configure, nmt, open_run):
    # At a high rate the loss swings and the average lies lower; at a low one the last is the best.
    steps = {"learning_rate": rate, "warmup_updates": 0, "schedule": "constant"}
    average = {"average_checkpoints": 3, "max_updates": 8, "best_metric": "loss"}
    checkpoints = {"checkpoint_interval": 1, "keep_checkpoints": 8}
    configure("rnn", training=EACH_UPDATE | steps | average | checkpoints)
    assert nmt("train", "c.yaml").code == 0
    [line] = [line for line in open_run().metrics if line["event"] == "average"]
    best = min(line["loss"] for line in open_run().metrics if line["event"] == "validation")
    assert line["is_taken"] == wins == (line["loss"] < best)
    states = [
        safetensors.torch.load_file(f"run/checkpoints/{update:08d}/weights.safetensors")
        for update in (6, 7, 8)
    ]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).float()
        for name in states[0]
    }
    found = safetensors.torch.load_file("run/model.safetensors")
    assert all(torch.equal(found[name], mean[name]) for name in mean) == wins
    shown = json.loads(nmt("inspect", "run", "--json").text)
    assert shown["validation"]["loss"] == min(best, line["loss"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_and_optimizer_trains(schedule, optimizer, configure, nmt, open_run):
    configure(
        "transformer",
        training=EACH_UPDATE
        | {"schedule": schedule, "optimizer": optimizer, "max_updates": 4, "warmup_updates": 2},
    )
    assert nmt("train", "c.yaml").code == 0
    rates = [line["learning_rate"] for line in open_run().metrics if line["event"] == "train"]
    assert len(rates) == 4
    peak = 0.001 if schedule != "noam" else 0.001 * 8**-0.5 * 2**-0.5
    assert rates[:2] == pytest.approx([peak / 2, peak])
    wanted = {
        "inverse_sqrt": [peak * (2 / 3) ** 0.5, peak * 0.5**0.5],
        "noam": [peak * (2 / 3) ** 0.5, peak * 0.5**0.5],
        "cosine": [peak / 2, 0.0],
        "linear": [peak / 2, 0.0],
        "plateau": [peak, peak],
        "constant": [peak, peak],
    }
    assert rates[2:] == pytest.approx(wanted[schedule])
    losses = [line["loss"] for line in open_run().metrics if line["event"] == "validation"]
    assert losses[1] < losses[0]


def test_optimizers_differ(configure, nmt, open_run):
    configure("cnn", training={"warmup_updates": 0})
    for optimizer in OPTIMIZERS:
        flags = ["--set", f"training.optimizer={optimizer}", "--set", f"run_dir={optimizer}"]
        assert nmt("train", "c.yaml", *flags).code == 0
    assert open_run("adam").sha256 != open_run("adamw").sha256


def test_patience_stops_a_run_that_gets_no_better(configure, nmt, open_run):
    # Steps too small to change any score.
    still = {"learning_rate": 1e-12, "warmup_updates": 0, "schedule": "constant"}
    configure("rnn", training=EACH_UPDATE | still | {"max_updates": 50, "patience": 2})
    done = nmt("train", "c.yaml")
    assert done.code == 0
    assert "reached patience (2 validations without a new best) after 3 updates" in done.messages
    assert open_run().updates("validation") == [1, 2, 3]
    shown = json.loads(nmt("inspect", "run", "--json").text)
    assert shown["update"] == 1


def test_plateau_lowers_the_rate_until_it_stops(configure, nmt, open_run):
    still = {"learning_rate": 1e-12, "warmup_updates": 0, "min_learning_rate": 2e-13}
    plateau = {"schedule": "plateau", "plateau_patience": 1, "plateau_factor": 0.5}
    configure("rnn", training=EACH_UPDATE | still | plateau | {"max_updates": 50})
    done = nmt("train", "c.yaml")
    assert done.code == 0
    assert "reached min_learning_rate (2e-13) after 4 updates" in done.messages
    rates = [line["learning_rate"] for line in open_run().metrics if line["event"] == "train"]
    assert rates == pytest.approx([1e-12, 1e-12, 5e-13, 2.5e-13])


def test_epochs_limit_a_run(configure, nmt, open_run):
    configure("rnn", training=EACH_UPDATE | {"max_updates": None, "max_epochs": 2})
    done = nmt("train", "c.yaml")
    assert done.code == 0
    [batches] = [
        int(line.split(" ")[0]) for line in done.messages if line.endswith("batches an epoch")
    ]
    last = open_run().metrics[-1]["update"]
    assert f"reached max_epochs (2) after {last} updates" in done.messages
    assert abs(last - 2 * batches) <= 2
