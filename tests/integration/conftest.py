"""A directory of its own for each test, tiny corpora, and the command run in process."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

COMMAND = [sys.executable, "-m", "nmt.cli.main"]
WORDS = ["ba", "de", "ki", "lo", "mu", "na", "po", "ri"]
SIZES = {"train": 60, "valid": 12, "test": 12}

# Two updates of these take a few milliseconds; all of them draw random numbers for dropout.
TINY = {
    "rnn": {"embedding_size": 8, "hidden_size": 8, "dropout": 0.1},
    "cnn": {"num_layers": 2, "embedding_size": 8, "hidden_size": 8, "dropout": 0.1},
    "transformer": {
        "num_layers": 1,
        "hidden_size": 8,
        "num_heads": 2,
        "feedforward_size": 16,
        "dropout": 0.1,
    },
}

# In float64 and without dropout nothing but the order of sums depends on the number of ranks.
EXACT = {
    "precision": "fp64",
    "batch_tokens": 10,
    "max_updates": 9,
    "warmup_updates": 1,
    "learning_rate": 0.01,
    "logging_interval": 1,
    "validation_interval": 4,
    "checkpoint_interval": 2,
    "best_metric": "loss",
}

# What changes with the time of day and the speed of the machine.
TIMES = {"seconds", "tokens_per_second", "memory_mib"}


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        """Lines of stdout, of which the last one ends like the others."""
        *lines, rest = self.text.split("\n")
        assert not rest, f"the last line lacks its end: {rest}"
        return lines

    @property
    def messages(self) -> list[str]:
        """Lines of stderr."""
        return self.err.split("\n")[:-1]

    def assert_refused(self, code: int, *parts: str) -> None:
        """Checks the exit status, an empty stdout, and one line on stderr with these parts."""
        assert (self.code, self.out) == (code, b""), self
        assert len(self.messages) == 1, self.err
        assert self.err.startswith("nmt"), self.err
        for part in parts:
            assert part in self.err


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl without what depends on time."""
        lines = (self.folder / "metrics.jsonl").read_text().split("\n")
        assert lines.pop() == "", "metrics.jsonl ends in half a line"
        return [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in lines
        ]

    def updates(self, event: str) -> list[int]:
        """The updates of all metrics lines of a kind."""
        return [line["update"] for line in self.metrics if line["event"] == event]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the ranks of a run ended: exit statuses, and the lines that each wrote to stderr."""

    codes: list[int | None]
    messages: list[list[str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NMT_MODEL", raising=False)


@pytest.fixture
def nmt(
    run_main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Callable[..., Done]:
    """A function that runs `nmt` with these arguments, and bytes for its stdin."""

    def run(*argv: str | Path, stdin: bytes = b"") -> Done:
        capfdbinary.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin)))
            code = run_main(*argv)
        out, err = capfdbinary.readouterr()
        done = Done(code, out, err.decode())
        assert "Traceback" not in done.err, done.err
        return done

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """A function that starts `nmt` as a process with pipes; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*argv: str | Path, **kwargs: Any) -> subprocess.Popen[bytes]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        # Some test machines set the other variable, which would hide a flush that is missing.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
        command = [*COMMAND, *map(str, argv)]
        process = subprocess.Popen(command, env=environment, **{**pipes, **kwargs})
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """A function that waits for a condition while a process runs, with a deadline."""

    def wait(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60.0
        while not condition():
            assert process.poll() is None, "the process ended early"
            assert time.monotonic() < deadline, "the process takes too long"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.005)

    return wait


@pytest.fixture
def open_run() -> Callable[..., Run]:
    """A function that returns the run in a folder."""
    return lambda folder="run": Run(Path(folder))


@pytest.fixture
def configure() -> Callable[..., Path]:
    """A function that writes corpora and `c.yaml` into the working directory.

    Its arguments are the families of encoder and decoder and changes to sections: a dictionary is
    laid over the section, None removes it.
    """

    def write(encoder: str = "rnn", decoder: str | None = None, **changes: Any) -> Path:
        write_corpora(Path(), reverse, SIZES)
        decoder = decoder or encoder
        model = {
            "encoder": {"type": encoder, **TINY[encoder]},
            "decoder": {"type": decoder, **TINY[decoder]},
        }
        return write_config(Path(), {"model": model}, changes)

    return write


@pytest.fixture
def exact(configure: Callable[..., Path]) -> Callable[..., None]:
    """A function that writes a configuration whose losses depend on nothing but rounding."""

    def write(family: str = "transformer", *, dropout: float = 0.0, **training: Any) -> None:
        path = configure(family, training=EXACT | training)
        path.write_text(path.read_text().replace("dropout: 0.1", f"dropout: {dropout}"))

    return write


@pytest.fixture
def ranks(rank_environment: dict[str, str]) -> Callable[..., Ended]:
    """A function that trains `c.yaml` on so many ranks, into a folder, with faults."""
    script = Path(__file__).with_name("start_ranks.py")

    def run(number: int, run_dir: str, *argv: str, **job: Any) -> Ended:
        command = ["train", "c.yaml", f"--set=run_dir={run_dir}", *argv]
        values = {"ranks": number, "argv": command, **job}
        done = subprocess.run(
            [sys.executable, script, json.dumps(values)],
            env=rank_environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        messages = [Path(f"err.{rank}").read_text().split("\n")[:-1] for rank in range(number)]
        ended = Ended(json.loads(done.stdout), messages)
        assert not any("Traceback" in line for lines in messages for line in lines), messages
        assert -signal.SIGABRT not in ended.codes, ended
        return ended

    return run


@pytest.fixture
def learned(learners: Callable[[str], Path]) -> Iterator[Callable[[str], Path]]:
    """A function from a family to a directory in which it has been trained until it had learnt.

    There are `c.yaml`, the corpora and the folder `run`. All tests share them; none may change them.
    """
    before: dict[Path, set[tuple[Path, int]]] = {}

    def find(family: str) -> Path:
        folder = learners(family)
        before.setdefault(folder, files_of(folder))
        return folder

    yield find
    for folder, files in before.items():
        assert files_of(folder) == files, "the test changed files that others read"


def files_of(folder: Path) -> set[tuple[Path, int]]:
    return {(path, path.lstat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="session")
def learners(
    run_main: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    @functools.cache
    def train(family: str) -> Path:
        folder = tmp_path_factory.mktemp(f"learned-{family}")
        write_learner(folder, family)
        with contextlib.chdir(folder):
            assert run_main("train", "c.yaml", "--quiet") == 0
        return folder

    return train


def reverse(words: list[str]) -> list[str]:
    return words[::-1]


# For each family the task, the tokenizer, the sizes and the training that it learns in seconds with.
LEARNERS = {
    "rnn": (
        reverse,
        {"type": "word", "vocab_size": 300},
        {"embedding_size": 32, "hidden_size": 64},
        {"batch_tokens": 512, "max_updates": 350, "learning_rate": 0.01},
    ),
    "cnn": (
        list.copy,
        {"type": "char", "vocab_size": 300},
        {"num_layers": 2, "embedding_size": 32, "hidden_size": 32},
        {"batch_tokens": 512, "max_updates": 250, "learning_rate": 0.01},
    ),
    "transformer": (
        reverse,
        {"type": "bpe", "vocab_size": 290},
        {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "feedforward_size": 64},
        {"batch_tokens": 512, "max_updates": 450, "learning_rate": 0.005},
    ),
}


def write_learner(folder: Path, family: str) -> None:
    task, tokenizer, options, training = LEARNERS[family]
    write_corpora(folder, task, {"train": 2000, "valid": 20, "test": 60})
    schedule = {"schedule": "linear", "warmup_updates": 40, "label_smoothing": 0.0}
    intervals = {"validation_interval": 1000, "checkpoint_interval": 1000}
    half = {"type": family, "dropout": 0.0, **options}
    values = {
        "tokenizer": tokenizer,
        "model": {side: dict(half) for side in ("encoder", "decoder")},
        "training": training | schedule | intervals,
        "decoding": {"beam_size": 3},
    }
    write_config(folder, values, {})


def write_corpora(
    folder: Path, task: Callable[[list[str]], list[str]], sizes: dict[str, int]
) -> None:
    """Writes `train.src` and so on: short sentences of made-up words; no test line is trained on.

    Only training has sentences of one word, of which there are too few to hold any out.
    """
    generator = random.Random(1)
    held_out: set[tuple[str, ...]] = set()
    for name in ("test", "valid", "train"):
        shortest = 1 if name == "train" else 2
        sentences: list[list[str]] = []
        while len(sentences) < sizes[name]:
            words = [generator.choice(WORDS) for _ in range(generator.randint(shortest, 5))]
            if name != "train":
                held_out.add(tuple(words))
            elif tuple(words) in held_out:
                continue
            sentences.append(words)
        for side, lines in (("src", sentences), ("tgt", [task(words) for words in sentences])):
            text = "".join(" ".join(words) + "\n" for words in lines)
            (folder / f"{name}.{side}").write_text(text)


def write_config(folder: Path, values: dict[str, Any], changes: dict[str, Any]) -> Path:
    corpora = {name: {side: f"{name}.{side}" for side in ("src", "tgt")} for name in SIZES}
    config: dict[str, Any] = {
        "run_dir": "run",
        "threads": 1,
        "data": {"src_lang": "aa", "tgt_lang": "bb", **corpora, "train": [corpora["train"]]},
        "tokenizer": {"type": "word", "vocab_size": 300},
        "training": {"batch_tokens": 64, "max_updates": 2, "precision": "fp32"},
    }
    for layer in (values, changes):
        for key, value in layer.items():
            if value is None:
                del config[key]
            elif isinstance(value, dict):
                config[key] = {**config.get(key, {}), **value}
            else:
                config[key] = value
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
