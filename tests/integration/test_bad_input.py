"""What goes wrong is one line and an exit status; nothing is left half-written; the remedy works."""

import contextlib
import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint import manifests
from nmt.runtime import locks

INTERVALS = {"logging_interval": 1, "validation_interval": 2, "checkpoint_interval": 2}
MODEL_FILES = [
    "config.yaml",
    "manifest.json",
    "model.safetensors",
    "tokenizer/spm.model",
    "tokenizer/spm.vocab",
    "tokenizer/tokenizer.json",
]


def leftovers(folder: Path | str = ".") -> list[Path]:
    """Files that were being written when something went wrong."""
    prefixes = (".tmp-", ".old-", ".replaced-")
    return [path for path in Path(folder).rglob("*") if path.name.startswith(prefixes)]


def contents(folder: str) -> dict[Path, bytes]:
    """All that a run folder holds, but for notes on who was there and what was said."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    notes = {".lock", "log.txt"}
    return {path: path.read_bytes() for path in paths if path.name not in notes}


@pytest.fixture
def model(learned: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a trained run, to be damaged."""
    return Path(shutil.copytree(learned("cnn") / "run", tmp_path / "model"))


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


# Configurations that are refused before any work starts: changes, and parts of the message.
REFUSED = {
    "unknown key": (
        {"training": {"max_update": 3}},
        ["c.yaml:", "training.max_update: unknown key", "Did you mean 'max_updates'?"],
    ),
    "unknown section": ({"decodng": {}}, ["decodng: unknown key", "Did you mean 'decoding'?"]),
    "unknown family": (
        {"model": {"encoder": {"type": "transfomer"}}},
        ["model.encoder.type: no encoder of this type", "Did you mean 'transformer'?"],
    ),
    "option of another family": (
        {"model": {"encoder": {"type": "rnn", "kernel_size": 3}}},
        ["model.encoder.kernel_size: unknown key for type rnn"],
    ),
    "wrong type": (
        {"training": {"max_updates": "many"}},
        ["training.max_updates: wants a whole number (given: 'many')"],
    ),
    "wrong choice": (
        {"tokenizer": {"type": "wrod"}},
        ["tokenizer.type: wants one of bpe, unigram, char, word", "Did you mean 'word'?"],
    ),
    "out of range": (
        {"training": {"batch_tokens": 0}},
        ["training.batch_tokens: wants at least 1 (given: 0)"],
    ),
    "a half corpus": (
        {"data": {"valid": {"src": "valid.src"}}},
        ["data.valid: wants src and tgt together"],
    ),
    "missing key": ({"data": {"train": []}}, ["data.train: wants at least 1 entry"]),
    "option that the encoder ignores": (
        {"model": {"encoder": {"type": "rnn", "reverse_source": True}}},
        ["model.encoder.reverse_source: would be ignored", "Remove it."],
    ),
    "option that the transformer ignores": (
        {"model": {"decoder": {"type": "transformer", "max_positions": 50}}},
        ["model.decoder.max_positions: would be ignored", "sinusoidal"],
    ),
    "setting that the optimiser ignores": (
        {"training": {"weight_decay": 0.1}},
        ["training.weight_decay: would be ignored", "adamw"],
    ),
    "setting that a shared vocabulary ignores": (
        {"tokenizer": {"tgt_vocab_size": 300}},
        ["tokenizer.tgt_vocab_size: would be ignored", "shared"],
    ),
    "no limit": ({"training": {"max_updates": None}}, ["training: no limit is set"]),
    "a plugin that is not there": (
        {"plugins": ["mine.py"]},
        ["plugins.0: plugin 'mine.py': cannot be imported"],
    ),
    "tied embeddings of two vocabularies": (
        {"tokenizer": {"shared": False}, "model": {"tie_embeddings": "all"}},
        ["model.tie_embeddings: all needs tokenizer.shared: true"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_configuration_is_one_line_and_exit_2_before_any_work(case, configure, nmt):
    changes, parts = REFUSED[case]
    configure("rnn", **changes)
    nmt("train", "c.yaml").assert_refused(2, *parts)
    assert not Path("run").exists() and not Path(".nmt").exists()


def test_every_mistake_of_a_configuration_has_its_line(configure, nmt):
    configure("rnn", training={"max_updates": -1, "bacth_tokens": 5}, seed="one")
    done = nmt("train", "c.yaml")
    assert (done.code, len(done.messages)) == (2, 3)
    assert "training.bacth_tokens: unknown key. Did you mean 'batch_tokens'?" in done.messages[0]
    assert all("c.yaml:" in message for message in done.messages)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--set", "training.max_updats=3"], ["--set training.max_updats=3: unknown key", "max_updates"]),
        (["--set", "seed"], ["--set seed: wants key=value"]),
        (["--precision", "fp16"], ["precision: fp16 needs a GPU"]),
        (["--device", "cuda:99"], ["device: this machine and this torch have none (given: cuda:99)"]),
        (["--device", "gpu"], ["device: no such device (given: gpu)"]),
        (["--threads", "0"], ["--threads: wants at least 1"]),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_line_and_exit_2(flags, parts, configure, nmt):
    configure("rnn")
    nmt("train", "c.yaml", *flags).assert_refused(2, *parts)
    assert not Path("run").exists()


def test_missing_configuration_is_told_how_to_make_one(nmt):
    nmt("train", "c.yaml").assert_refused(2, "c.yaml: there is no such file", "nmt init")


@pytest.mark.parametrize("name", ["train.src", "valid.tgt", "test.src"])
@pytest.mark.parametrize("fault", ["missing", "folder"])
def test_missing_corpus_is_found_before_any_work(fault, name, configure, nmt):
    configure("rnn")
    Path(name).unlink()
    if fault == "folder":
        Path(name).mkdir()
    text = "no such file" if fault == "missing" else "is a folder, a file is wanted"
    nmt("train", "c.yaml").assert_refused(1, f"{name}: {text}")
    assert not Path("run").exists()


def truncate(name: str) -> None:
    Path(name).write_text("")


def drop_last_line(name: str) -> None:
    Path(name).write_text("".join(Path(name).read_text().splitlines(keepends=True)[:-1]))


BAD_CORPORA: dict[str, tuple[Callable[[], None], list[str]]] = {
    "empty training files": (
        lambda: (truncate("train.src"), truncate("train.tgt"))[0],
        ["the training text has no line with text in it", "data.train"],
    ),
    "training files of different lengths": (
        lambda: drop_last_line("train.tgt"),
        ["train.src and train.tgt: differ in their number of lines (given: 60 and 59)"],
    ),
    "one empty training file": (
        lambda: truncate("train.src"),
        ["train.src and train.tgt: differ in their number of lines (given: 0 and 60)"],
    ),
    "validation files of different lengths": (
        lambda: drop_last_line("valid.src"),
        ["valid.src and valid.tgt: differ in their number of lines (given: 11 and 12)"],
    ),
    "empty validation files": (
        lambda: (truncate("valid.src"), truncate("valid.tgt"))[0],
        ["valid.src + valid.tgt: has no line"],
    ),
    "nothing but blank lines on one side": (
        lambda: Path("train.tgt").write_text("\n" * 60),
        ["train.src + train.tgt: no pair is left", "60 empty"],
    ),
}


@pytest.mark.parametrize("case", BAD_CORPORA)
def test_unusable_corpus_is_one_line_and_the_mended_one_trains(case, configure, nmt, open_run):
    spoil, parts = BAD_CORPORA[case]
    configure("rnn")
    spoil()
    nmt("train", "c.yaml", "--quiet").assert_refused(1, *parts)
    assert not leftovers()
    assert not Path("run/model.safetensors").exists()
    configure("rnn")
    assert nmt("train", "c.yaml").code == 0
    mended = open_run().sha256
    assert nmt("train", "c.yaml", "--fresh").code == 0
    assert mended == open_run().sha256


TOO_MUCH = "5000 is more than the training text allows (at most "


@pytest.mark.parametrize(
    ("tokenizer", "parts"),
    [
        ("{type: bpe, vocab_size: 5000}", [f"tokenizer.vocab_size: {TOO_MUCH}"]),
        ("{type: unigram, vocab_size: 5000}", [f"tokenizer.vocab_size: {TOO_MUCH}"]),
        ("{vocab_size: 5000, shared: false}", [f"tokenizer.vocab_size (source): {TOO_MUCH}"]),
        (
            "{vocab_size: 290, tgt_vocab_size: 5000, shared: false}",
            [f"tokenizer.tgt_vocab_size: {TOO_MUCH}"],
        ),
        ("{vocab_size: 100}", ["vocab_size: has no room for all characters", "at least"]),
        ("{model: no.model}", ["tokenizer: no.model: no such file"]),
        ("{model: c.yaml}", ["tokenizer: c.yaml: is no SentencePiece model"]),
    ],
)
def test_vocabulary_that_does_not_fit_the_data_is_exit_2(tokenizer, parts, configure, nmt):
    configure("rnn", tokenizer=None)
    done = nmt("train", "c.yaml", "--quiet", "--set", f"tokenizer={tokenizer}")
    done.assert_refused(2, *parts)
    assert not leftovers()
    assert not Path("run/tokenizer").exists()


@pytest.mark.parametrize("run_dir", ["c.yaml", "c.yaml/run"])
def test_run_dir_that_is_a_file_is_one_line(run_dir, configure, nmt):
    configure("rnn", run_dir=run_dir)
    nmt("train", "c.yaml").assert_refused(1, f"{run_dir}: cannot be made: there is a file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_run_dir_that_cannot_be_written_is_one_line(configure, nmt):
    configure("rnn", run_dir="/proc/self/run")
    nmt("train", "c.yaml").assert_refused(1, "/proc/self/run: cannot be made")


@contextlib.contextmanager
def full_disk(first: int) -> Iterator[list[int]]:
    """Lets the disk be full from the n-th time on that something is to reach it; lists the times."""
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= first:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield calls


def test_full_disk_tears_nothing_and_the_run_goes_on_to_the_same_end(configure, nmt, open_run):
    configure("rnn", training=INTERVALS | {"max_updates": 4})
    with full_disk(10**9) as calls:
        assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    assert len(calls) > 50
    for first in range(2, len(calls), len(calls) // 9):
        run_dir = f"run-{first}"
        with full_disk(first):
            done = nmt("train", "c.yaml", "--quiet", "--set", f"run_dir={run_dir}")
        assert done.code == 1
        assert f"nmt: {run_dir}" in done.messages[-1]
        assert os.strerror(errno.ENOSPC) in done.messages[-1]
        # Before the last one there may be a warning that the run is not noted as the last one.
        assert len(done.messages) <= 2, done.err
        assert not leftovers(run_dir)
        if Path(run_dir, manifests.NAME).exists():
            assert nmt("inspect", run_dir).code == 0
        assert nmt("train", "c.yaml", "--set", f"run_dir={run_dir}").code == 0
        assert open_run(run_dir).sha256 == open_run("whole").sha256
        assert open_run(run_dir).metrics == open_run("whole").metrics


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """A function that forbids this process to write files of more than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_file_that_cannot_grow_is_named_and_the_run_goes_on_later(
    configure, nmt, open_run, file_limit
):
    # Of this run the optimiser's state is the largest file.
    words = {"type": "word", "vocab_size": 20, "byte_fallback": False, "normalization": "identity"}
    configure("cnn", tokenizer=words, training=INTERVALS)
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    sizes = {path: path.stat().st_size for path in Path("whole").rglob("*") if path.is_file()}
    largest = max(sizes, key=sizes.__getitem__)
    assert largest.name == "optimizer.safetensors"
    file_limit(sizes[largest] - 1)
    done = nmt("train", "c.yaml", "--quiet")
    file_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done.assert_refused(1, "optimizer.safetensors: cannot be written (File too large)")
    assert not leftovers("run")
    assert nmt("train", "c.yaml").code == 0
    assert open_run().sha256 == open_run("whole").sha256


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_log_that_cannot_grow_is_one_line(configure, nmt):
    configure("rnn", training=INTERVALS)
    Path("run").mkdir()
    Path("run/log.txt").symlink_to("/dev/full")
    nmt("train", "c.yaml", "--quiet").assert_refused(
        1, "run/log.txt: cannot be written (No space left on device)"
    )


def test_changed_key_is_named_and_the_run_stays_as_it_is(configure, nmt, open_run):
    configure("transformer", training=INTERVALS)
    assert nmt("train", "c.yaml").code == 0
    before = contents("run")
    for setting in (
        "model.encoder.num_layers=2",
        "seed=2",
        "training.batch_tokens=65",
        "training.learning_rate=0.5",
        "tokenizer.lowercase=true",
        "data.max_length=100",
    ):
        key = setting.partition("=")[0]
        done = nmt("train", "c.yaml", "--quiet", "--set", setting)
        done.assert_refused(2, f"run: the run was started with another value of {key}.", "--fresh")
    rnn = "model.decoder={type: rnn, embedding_size: 8, hidden_size: 8}"
    nmt("train", "c.yaml", "--set", rnn).assert_refused(2, "another value of model.decoder.type.")
    assert contents("run") == before
    # What may change, may.
    free = ["--set", "decoding.beam_size=2", "--set", "training.keep_checkpoints=1"]
    assert nmt("train", "c.yaml", *free, "--set", "training.max_updates=3").code == 0
    assert open_run().updates("train") == [1, 2, 3]


def test_changed_corpus_is_found_and_a_moved_one_is_not_a_change(configure, nmt, open_run):
    configure("rnn", training=INTERVALS)
    assert nmt("train", "c.yaml").code == 0
    text = Path("train.src").read_text()
    Path("train.src").write_text(text.replace("ba", "de"))
    more = ["--set", "training.max_updates=4"]
    done = nmt("train", "c.yaml", "--quiet", *more)
    done.assert_refused(1, "run: the training corpora are not those that the run was started with")
    Path("moved.src").write_text(text)
    assert nmt("train", "c.yaml", *more, "--set", "data.train.0.src=moved.src").code == 0
    assert open_run().updates("train") == [1, 2, 3, 4]


def test_logs_are_cut_back_to_the_checkpoint_that_a_run_goes_on_from(configure, nmt, open_run):
    """What was said and measured after it belongs to updates that are done once more."""
    configure("rnn", training=INTERVALS)
    assert nmt("train", "c.yaml").code == 0
    log, metrics = open_run().log, open_run().metrics
    for name, line in (("log.txt", "of later\n"), ("metrics.jsonl", '{"event": "train"}\n')):
        with Path("run", name).open("a") as stream:
            stream.write(line)
    assert nmt("train", "c.yaml", "--set", "training.max_updates=4").code == 0
    assert "of later" not in open_run().log
    # The last lines of the first run, after its last checkpoint, say that it had ended.
    assert open_run().log.startswith("\n".join(log.split("\n")[:3]))
    assert open_run().metrics[: len(metrics)] == metrics


def test_second_process_is_told_who_trains_there(configure, nmt):
    configure("rnn")
    Path("run").mkdir()
    with locks.RunLock(Path("run")):
        for flags in ([], ["--fresh"]):
            done = nmt("train", "c.yaml", *flags)
            done.assert_refused(1, "run: another process trains there", f"process {os.getpid()} on")
        assert [path.name for path in Path("run").iterdir()] == [".lock"]
    assert nmt("train", "c.yaml").code == 0


def test_fresh_moves_the_old_run_aside(configure, nmt, open_run):
    configure("rnn")
    assert nmt("train", "c.yaml", "--fresh").code == 0
    assert not list(Path().glob("run.old-*"))
    first = open_run().sha256
    for number in (1, 2):
        done = nmt("train", "c.yaml", "--fresh", "--set", f"seed={number + 1}")
        assert done.code == 0
        assert f"--fresh: the run that was in run is now in run.old-{number}" in done.messages
    assert open_run("run.old-1").sha256 == first
    assert len({open_run(name).sha256 for name in ("run", "run.old-1", "run.old-2")}) == 3
    assert nmt("translate", "--model", "run.old-1", stdin=b"ba\n").code == 0


def test_finished_run_says_so_and_changes_nothing(configure, nmt, open_run):
    configure("rnn")
    assert nmt("train", "c.yaml").code == 0
    before = contents("run")
    done = nmt("train", "c.yaml")
    assert (done.code, done.out) == (0, b"")
    assert done.messages == [
        "run: this run is finished: 2 updates, it reached max_updates (2). "
        "Raise the limit to go on, or start anew with --fresh."
    ]
    assert (
        before.items()
        <= {path: path.read_bytes() for path in Path("run").rglob("*.*") if path.is_file()}.items()
    )


@pytest.mark.parametrize(
    "settings",
    [{"schedule": "cosine"}, {"schedule": "linear"}, {"cooldown_updates": 1}],
)
def test_finished_run_whose_rate_has_ended_names_a_way_that_is_open(settings, configure, nmt):
    configure("rnn", training={"max_updates": 2} | settings)
    assert nmt("train", "c.yaml").code == 0
    (line,) = nmt("train", "c.yaml").messages
    assert "start another run with training.init_from = this folder" in line
    longer = nmt("train", "c.yaml", "--set", "training.max_updates=3")
    longer.assert_refused(2, "another value of training.max_updates")


def test_a_torn_snapshot_is_left_out_of_the_average(configure, nmt):
    every = {"validation_interval": 1, "checkpoint_interval": 1, "average_checkpoints": 3}
    configure("rnn", training=every | {"max_updates": 3})
    assert nmt("train", "c.yaml").code == 0
    (torn,) = Path("run/snapshots").glob("00000003-*")
    torn.write_bytes(b"torn")
    done = nmt("train", "c.yaml", "--set", "training.max_updates=4")
    assert done.code == 0
    assert "The snapshot of update 3 is left out of the average" in done.err
    assert "average of the last validations" in done.err
    assert (
        "this run is finished: 4 updates"
        in nmt("train", "c.yaml", "--set", "training.max_updates=4").err
    )


def test_model_without_checkpoints_is_not_trained_over(model, configure, nmt):
    configure("rnn", run_dir="model")
    shutil.rmtree(model / "checkpoints")
    before = (model / "model.safetensors").read_bytes()
    done = nmt("train", "c.yaml", "--quiet")
    done.assert_refused(1, "model: holds a model, but no checkpoint to resume from", "--fresh")
    assert (model / "model.safetensors").read_bytes() == before


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "torn": tear,
    "altered": flip_a_bit,
    "empty": lambda path: path.write_bytes(b"") and None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", MODEL_FILES)
def test_damaged_model_is_never_used_and_the_file_is_named(name, damage, model, nmt):
    DAMAGES[damage](model / name)
    Path("in.txt").write_text("ba\n")
    for argv in (
        ["translate", "--model", "model"],
        ["evaluate", "--model", "model", "--src", "in.txt", "--ref", "in.txt"],
        ["inspect", "model"],
    ):
        done = nmt(*argv, stdin=b"ba\n")
        done.assert_refused(1, f"model/{name}: ")
        assert any(word in done.err for word in ("missing", "torn", "altered"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere", "nowhere: there is no such model folder"),
        ("c.yaml", "c.yaml: is a file, not a model folder"),
        ("empty", "empty: is not a model folder (manifest.json is missing)"),
        ("begun", "begun: has no model yet, training has not saved one"),
    ],
)
def test_what_is_no_model_is_told_apart(name, text, configure, nmt, monkeypatch):
    configure("rnn")
    Path("empty").mkdir()
    Path("begun/checkpoints").mkdir(parents=True)
    for argv in (["translate", "--model", name], ["evaluate", "--model", name], ["inspect", name]):
        nmt(*argv, stdin=b"ba\n").assert_refused(1, text)


def test_no_model_at_all_is_one_line(nmt):
    for verb in ("translate", "evaluate", "inspect"):
        nmt(verb, stdin=b"ba\n").assert_refused(1, "--model: no model is named", "NMT_MODEL")


def test_pickle_is_never_opened(model, nmt):
    weights = model / "model.safetensors"
    for data in (pickle.dumps(Trap()), saved_by_torch()):
        weights.write_bytes(data)
        nmt("translate", "--model", "model", stdin=b"ba\n").assert_refused(
            1, f"model/{weights.name}: "
        )
        # Not even where the manifest is made to fit.
        stored = manifests.read(model).manifest
        entries = {**stored.files, weights.name: manifests.entry_of_bytes(data)}
        manifest = manifests.Manifest(entries, stored.versions, stored.update, stored.scores)
        manifests.write(model, manifests.Stored(manifest))
        for argv in (["translate", "--model", "model"], ["inspect", "model"]):
            done = nmt(*argv, stdin=b"ba\n")
            done.assert_refused(1, "model/model.safetensors: is a pickle", "safetensors")
    assert not Path("sprung").exists()


def saved_by_torch() -> bytes:
    torch.save({"weight": Trap()}, "saved.pt")
    return Path("saved.pt").read_bytes()


def test_damaged_checkpoint_is_passed_over_with_a_warning(configure, nmt, open_run):
    configure("rnn", training=INTERVALS | {"max_updates": 6})
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    assert nmt("train", "c.yaml", "--set", "training.max_updates=4").code == 0
    flip_a_bit(Path("run/checkpoints/00000004/optimizer.safetensors"))
    done = nmt("train", "c.yaml")
    assert done.code == 0
    assert "The checkpoint of update 4 is passed over." in done.err
    assert "run/checkpoints/00000004/optimizer.safetensors: altered" in done.err
    assert "resumed from update 2" in done.messages
    assert open_run().sha256 == open_run("whole").sha256
    assert open_run().metrics == open_run("whole").metrics


def test_run_whose_checkpoints_are_all_damaged_is_refused(configure, nmt):
    configure("rnn", training=INTERVALS | {"max_updates": 4})
    assert nmt("train", "c.yaml").code == 0
    for path in Path("run/checkpoints").rglob("weights.safetensors"):
        tear(path)
    done = nmt("train", "c.yaml", "--set", "training.max_updates=6")
    assert done.code == 1
    assert done.messages[-1].startswith(
        "nmt: run/checkpoints: no checkpoint is whole (damaged: 2 of 2)"
    )


def test_train_restores_a_damaged_model(configure, nmt, open_run):
    configure("rnn")
    assert nmt("train", "c.yaml").code == 0
    before = open_run().sha256
    tear(Path("run/model.safetensors"))
    done = nmt("train", "c.yaml")
    assert done.code == 0
    assert "run/model.safetensors: torn or altered" in done.err
    assert open_run().sha256 == before
    assert nmt("inspect", "run").code == 0


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["translate", "--input", "no.txt"], 1, ["no.txt: no such file"]),
        (["translate", "--input", "folder"], 1, ["folder: is a folder, a file is wanted"]),
        (["translate", "--output", "no/out.txt"], 1, ["no/out.txt: cannot be written"]),
        (["translate", "--output", "folder"], 1, ["folder: is a folder, a file is wanted"]),
        (["translate", "--nbest", "4"], 2, ["nmt translate: --nbest: more than the beam is wide"]),
        (["translate", "--beam-size", "0"], 2, ["--beam-size: wants at least 1 (given: 0)"]),
        (["translate", "--min-length", "600"], 2, ["--min-length: has to be below max_length"]),
        (["translate", "--patience", "2", "--exact-stop"], 2, ["--patience: would be ignored"]),
        (["translate", "--device", "gpu"], 2, ["device: no such device (given: gpu)"]),
        (["translate", "--precision", "fp16"], 2, ["precision: fp16 needs a GPU"]),
        (["evaluate", "--src", "two.txt"], 2, ["--src and --ref: give both, or neither"]),
        (["evaluate", "--ref", "two.txt"], 2, ["--src and --ref: give both, or neither"]),
        (["evaluate", "--src", "two.txt", "--ref", "one.txt"], 1,
            ["one.txt: 1 lines, but the source has 2"]),
        (["evaluate", "--src", "two.txt", "--ref", "two.txt", "--bleu", "--tokenize", "13"], 2,
            ["--tokenize: unknown tokenizer (given: 13)", "Did you mean '13a'?"]),
        (["evaluate", "--src", "no.txt", "--ref", "two.txt"], 1, ["no.txt: no such file"]),
        (["evaluate", "--src", "nil.txt", "--ref", "nil.txt"], 1, ["there is no line to score"]),
    ],
)  # fmt: skip
def test_wrong_use_of_a_model_is_one_line(argv, code, parts, learned, nmt, monkeypatch):
    Path("folder").mkdir()
    for name, text in (("nil", ""), ("one", "ba\n"), ("two", "ba\nde\n")):
        Path(f"{name}.txt").write_text(text)
    monkeypatch.setenv("NMT_MODEL", str(learned("cnn") / "run"))
    done = nmt(*argv, "--quiet", stdin=b"ba\n")
    done.assert_refused(code, *parts)
    assert not leftovers()


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["--hyp", "two.txt"], 2, ["--hyp: wants --ref"]),
        (["--hyp", "two.txt", "--ref", "one.txt"], 1, ["1 lines, but 2 translations"]),
        (["--hyp", "two.txt", "--ref", "no.txt"], 1, ["no.txt: no such file"]),
        (["--hyp", "two.txt", "--ref", "two.txt", "--src", "two.txt"], 2,
            ["--src: would be ignored"]),
        (["--hyp", "two.txt", "--ref", "two.txt", "--model", "m"], 2,
            ["--model: would be ignored"]),
    ],
)  # fmt: skip
def test_wrong_use_of_ready_translations_is_one_line(argv, code, parts, nmt):
    for name, text in (("one", "ba\n"), ("two", "ba\nde\n")):
        Path(f"{name}.txt").write_text(text)
    nmt("evaluate", *argv).assert_refused(code, *parts)


def test_evaluate_without_a_test_set_asks_for_files(configure, nmt):
    configure("rnn", data={"test": None})
    text = Path("c.yaml").read_text()
    Path("c.yaml").write_text(text.replace("  test: null\n", ""))
    assert nmt("train", "c.yaml").code == 0
    done = nmt("evaluate", "--quiet")
    done.assert_refused(2, "run: its configuration names no data.test. Give --src and --ref.")


def test_fresh_never_moves_the_folder_that_one_works_in(configure, nmt):
    configure("rnn")
    done = nmt("train", "c.yaml", "--fresh", "--set", "run_dir=.")
    assert done.code == 2
    assert "would move the folder aside that you work in" in done.err
    assert Path("c.yaml").exists()


@pytest.mark.parametrize("text", ["no_such_name", "1 / 0", "raise KeyError('x')"])
def test_plugin_that_fails_is_one_line(text, configure, nmt):
    Path("mine.py").write_text(text + "\n")
    configure("rnn", plugins=["mine.py"])
    done = nmt("train", "c.yaml")
    assert done.code == 2
    assert "plugin 'mine.py': cannot be imported" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "manifest.json", "tokenizer"])
def test_a_run_overwrites_nothing_that_no_run_has_written(name, configure, nmt):
    configure(training={"max_updates": 1})
    Path("run").mkdir()
    if name == "tokenizer":
        Path("run/tokenizer").mkdir()
        Path("run/tokenizer/README").write_text("mine")
    else:
        Path("run", name).write_text("mine")
    nmt("train", "c.yaml").assert_refused(2, "run_dir: run holds what no run has written", name)
    kept = Path("run/tokenizer/README") if name == "tokenizer" else Path("run", name)
    assert kept.read_text() == "mine"
    kept.unlink()
    if name == "tokenizer":
        kept.parent.rmdir()
    assert nmt("train", "c.yaml").code == 0
    assert nmt("train", "c.yaml").code == 0


def test_a_ready_tokenizer_is_not_taken_from_where_the_run_keeps_its_own(configure, nmt):
    configure(training={"max_updates": 1})
    assert nmt("train", "c.yaml", "--set", "run_dir=first").code == 0
    Path("run/tokenizer").mkdir(parents=True)
    mine = Path("run/tokenizer/my.model")
    mine.write_bytes(Path("first/tokenizer/spm.model").read_bytes())
    done = nmt("train", "c.yaml", "--set", f"tokenizer={{model: {mine}}}")
    done.assert_refused(
        2, "tokenizer: run/tokenizer/my.model lies where the run keeps its own copy"
    )
    assert mine.exists()


def test_another_validation_corpus_is_refused_on_resuming(configure, nmt):
    configure(training={"max_updates": 2, "validation_interval": 2})
    assert nmt("train", "c.yaml").code == 0
    before = Path("valid.src").read_bytes()
    Path("valid.src").write_bytes(before[: before.index(b"\n") + 1] * 12)
    more = ("train", "c.yaml", "--set", "training.max_updates=3")
    nmt(*more).assert_refused(1, "the validation corpus is not the one", "--fresh")
    Path("valid.src").write_bytes(before)
    Path("valid.src").rename("moved.src")
    assert nmt(*more, "--set", "data.valid.src=moved.src").code == 0


def test_the_end_stays_where_a_cooldown_has_begun(configure, nmt):
    configure(training={"max_updates": 6, "cooldown_updates": 3, "schedule": "constant"})
    assert nmt("train", "c.yaml", "--set", "training.max_minutes=0.00001").code == 0
    done = nmt(
        "train", "c.yaml", "--set", "training.max_updates=9", "--set", "training.max_minutes=9"
    )
    assert done.code == 0, done.err
    longer = ("train", "c.yaml", "--set", "training.max_updates=12")
    nmt(*longer).assert_refused(2, "another value of training.max_updates")


def test_standard_output_by_its_name_is_not_replaced(configure, nmt):
    Path("h").write_text("a b\nc d\n")
    Path("all.txt").write_text("earlier\n")
    command = [sys.executable, "-m", "nmt", "evaluate", "--hyp", "h", "--ref", "h", "--bleu"]
    with open("all.txt", "ab") as stream:
        subprocess.run([*command, "--segments", "/dev/stdout"], stdout=stream, check=True)
    text = Path("all.txt").read_text()
    assert text.startswith("earlier\n")
    assert "1\th\t100.00" in text and "BLEU" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("setting", "is_said"),
    [("max_length=9", True), ("batch_tokens=99", False), ("sample=true", False)],
)
def test_another_search_under_a_run_is_said(setting, is_said, configure, nmt):
    configure("rnn")
    assert nmt("train", "c.yaml").code == 0
    done = nmt("train", "c.yaml", "--set=training.max_updates=4", f"--set=decoding.{setting}")
    assert done.code == 0
    assert ("do not compare with those before" in done.err) == is_said
