"""The token cache, sampled pieces, workers, shards and remote corpora, through `nmt train`."""

import gzip
import os
import signal
from pathlib import Path

import pytest

from nmt.data import corpus, filler, plan

EACH_UPDATE = {"logging_interval": 1, "checkpoint_interval": 1, "keep_checkpoints": 30}
SAMPLED = {"type": "bpe", "vocab_size": 290, "sampling": "both", "sampling_alpha": 0.3}


@pytest.fixture
def streamed(monkeypatch):
    """Every corpus is tokenised beside training, and takes several windows."""
    monkeypatch.setattr(corpus, "SMALL_TEXT_BYTES", 0)
    monkeypatch.setattr(plan, "FIRST_WINDOW_PAIRS", 8)
    monkeypatch.setattr(plan, "WINDOW_PAIRS", 16)
    monkeypatch.setattr(plan, "BLOCK_PAIRS", 4)


def stored(run, update):
    return {
        path.name: path.read_bytes()
        for path in sorted((run.folder / "checkpoints" / f"{update:08d}").iterdir())
        if path.suffix == ".safetensors"
    }


def test_a_streamed_corpus_gives_the_same_run(streamed, configure, nmt, open_run, monkeypatch):
    configure("rnn", training={**EACH_UPDATE, "max_updates": 12})
    assert nmt("train", "c.yaml").code == 0
    monkeypatch.setattr(corpus, "SMALL_TEXT_BYTES", 1 << 20)
    assert nmt("train", "c.yaml", "--set", "run_dir=filled").code == 0
    assert open_run().sha256 == open_run("filled").sha256
    assert open_run().metrics == open_run("filled").metrics
    assert open_run().metrics[-1]["update"] == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_sampled_runs_resume_bit_for_bit_with_any_number_of_workers(
    workers, configure, nmt, open_run, start
):
    training = {**EACH_UPDATE, "max_updates": 12}
    configure("transformer", tokenizer=SAMPLED, training=training)
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    for end in (5, 12):
        number = f"data.num_workers={workers}"
        process = start("train", "c.yaml", "--set", f"training.max_updates={end}", "--set", number)
        process.communicate(timeout=120)  # a process of its own: what is drawn depends on none
        assert process.returncode == 0
    assert stored(open_run(), 12) == stored(open_run("whole"), 12)
    trained = [line for line in open_run().metrics if line["event"] == "train"]
    assert trained == [line for line in open_run("whole").metrics if line["event"] == "train"]
    assert trained[-1]["epoch"] >= 1


def test_sampling_changes_what_is_trained_on(configure, nmt, open_run):
    configure("rnn", tokenizer=SAMPLED)
    for side in ("none", "src", "tgt", "both"):
        settings = [f"run_dir={side}", f"tokenizer.sampling={side}"]
        if side == "none":
            settings[1] = "tokenizer={type: bpe, vocab_size: 290}"
        done = nmt("train", "c.yaml", *(part for text in settings for part in ("--set", text)))
        assert done.code == 0
    names = ("none", "src", "tgt", "both")
    assert len({open_run(name).sha256 for name in names}) == 4


@pytest.mark.parametrize(
    ("tokenizer", "key", "why"),
    [
        ({"type": "word", "sampling": "src"}, "tokenizer.sampling", "one way only"),
        ({"type": "char", "sampling": "both"}, "tokenizer.sampling", "one way only"),
        ({"type": "bpe", "sampling_alpha": 0.2}, "tokenizer.sampling_alpha", "sampling is none"),
        (
            {"type": "bpe", "sampling": "src", "sampling_nbest": 8},
            "tokenizer.sampling_nbest",
            "type bpe has no list",
        ),
        ({"type": "unigram", "sampling_nbest": 8}, "tokenizer.sampling_nbest", "sampling is none"),
    ],
)
def test_sampling_that_would_be_ignored_is_refused(tokenizer, key, why, configure, nmt):
    configure("rnn", tokenizer={"vocab_size": 290, **tokenizer})
    nmt("train", "c.yaml").assert_refused(2, "c.yaml:", key, why)


def test_a_ready_tokenizer_that_cannot_sample_is_refused(configure, nmt):
    configure("rnn", tokenizer={"type": "word"})
    assert nmt("train", "c.yaml", "--set", "run_dir=trained").code == 0
    configure("rnn", tokenizer=None)
    ready = "tokenizer={model: trained/tokenizer/spm.model, sampling: src}"
    done = nmt("train", "c.yaml", "--quiet", "--set", ready)
    done.assert_refused(2, "tokenizer.sampling: the ready model cuts a text in one way only")


def test_unigram_samples_from_the_best_ways(configure, nmt, open_run):
    settings = {"type": "unigram", "vocab_size": 280, "sampling": "src"}
    configure("rnn", tokenizer=settings)
    assert nmt("train", "c.yaml", "--set", "run_dir=all").code == 0
    assert nmt("train", "c.yaml", "--set", "tokenizer.sampling_nbest=2").code == 0
    assert open_run().sha256 != open_run("all").sha256


def test_a_killed_filler_stops_the_run_and_the_same_command_goes_on(
    streamed, configure, nmt, open_run, monkeypatch
):
    configure("rnn", training={**EACH_UPDATE, "max_updates": 12})
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    start = filler.Filler.__init__

    def killed(self, work):
        start(self, work)
        os.kill(self.process_id, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(filler.Filler, "__init__", killed)
        done = nmt("train", "c.yaml", "--quiet")
    done.assert_refused(1, "data.train: the process that tokenises", "killed by SIGKILL")
    assert nmt("train", "c.yaml").code == 0
    assert open_run().sha256 == open_run("whole").sha256


def test_mistakes_found_beside_training_stop_it_with_their_line(streamed, configure, nmt):
    configure("rnn")
    Path("train.src").write_bytes(Path("train.src").read_bytes() + b"ba\n")
    done = nmt("train", "c.yaml", "--quiet", "--set", "training.max_updates=1000")
    done.assert_refused(1, "differ in their number of lines (given: 61 and 60)")


def test_a_dead_worker_stops_the_run_and_nothing_is_lost(
    configure, start, wait_until, nmt, open_run
):
    training = {"logging_interval": 1, "checkpoint_interval": 10000, "max_updates": 3000}
    configure("rnn", training=training, data={"num_workers": 1})
    process = start("train", "c.yaml", "--quiet")
    metrics = Path("run/metrics.jsonl")
    wait_until(lambda: metrics.exists() and b'"update": 3,' in metrics.read_bytes(), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    [line] = err.decode().splitlines()
    assert line.startswith("nmt: data.num_workers: a process that makes batches has died")
    [last] = [update for update in open_run().updates("train")][-1:]
    done = nmt("train", "c.yaml", "--set", f"training.max_updates={last + 1}")
    assert done.code == 0
    assert f"resumed from update {last}" in done.err


def test_a_cache_folder_serves_two_runs_and_old_caches_go(configure, nmt, open_run):
    configure("rnn", data={"cache_dir": "shared"})
    for name in ("one", "two"):
        assert nmt("train", "c.yaml", "--set", f"run_dir={name}").code == 0
        [cache] = Path("shared").iterdir()
        written = (cache / "journal.jsonl").stat().st_mtime_ns
        assert not Path(name, "cache").exists()
    assert (cache / "journal.jsonl").stat().st_mtime_ns == written
    assert open_run("one").sha256 == open_run("two").sha256
    configure("rnn")
    assert nmt("train", "c.yaml").code == 0
    [first] = Path("run/cache").iterdir()
    assert nmt("train", "c.yaml", "--fresh", "--set", "data.max_length=4").code == 0
    [second] = Path("run/cache").iterdir()
    assert first.name == cache.name != second.name


def test_an_altered_cache_is_made_again(configure, nmt, open_run):
    configure("rnn", training=EACH_UPDATE)
    assert nmt("train", "c.yaml").code == 0
    [ids] = Path("run/cache").glob("*/tgt.ids")
    good = ids.read_bytes()
    ids.write_bytes(good[:-2] + b"\0\0")
    done = nmt("train", "c.yaml", "--set", "training.max_updates=4")
    assert done.code == 0
    assert done.err.count("the token cache is torn or altered; it is made again") == 1
    assert ids.read_bytes() == good
    assert (
        nmt("train", "c.yaml", "--set", "run_dir=whole", "--set", "training.max_updates=4").code
        == 0
    )
    assert stored(open_run(), 4) == stored(open_run("whole"), 4)


def test_an_unwritable_cache_folder_is_one_line(configure, nmt):
    configure("rnn", data={"cache_dir": "c.yaml"})
    nmt("train", "c.yaml", "--quiet").assert_refused(1, "c.yaml")


def test_a_pattern_names_the_shards_of_a_corpus(configure, nmt, open_run):
    configure("rnn")
    assert nmt("train", "c.yaml", "--set", "run_dir=plain").code == 0
    for side in ("src", "tgt"):
        lines = Path(f"train.{side}").read_bytes().splitlines(keepends=True)
        Path(f"part.1.{side}.gz").write_bytes(gzip.compress(b"".join(lines[:25])))
        Path(f"part.2.{side}.gz").write_bytes(gzip.compress(b"".join(lines[25:])))
    shards = "data.train=[{src: 'part.*.src.gz', tgt: 'part.?.tgt.gz'}]"
    assert nmt("train", "c.yaml", "--set", shards).code == 0
    assert open_run().sha256 == open_run("plain").sha256
    Path("part.2.tgt.gz").unlink()
    done = nmt("train", "c.yaml", "--quiet", "--fresh", "--set", shards)
    done.assert_refused(1, "match different numbers of files (given: 2 and 1)")
    nothing = "data.train=[{tsv: 'none.*'}]"
    done = nmt("train", "c.yaml", "--quiet", "--fresh", "--set", nothing)
    done.assert_refused(1, "none.*: matches no file")


def test_corpora_behind_urls_are_read(configure, nmt, open_run):
    fsspec = pytest.importorskip("fsspec")
    configure("rnn")
    assert nmt("train", "c.yaml", "--set", "run_dir=plain").code == 0
    memory = fsspec.filesystem("memory")
    for side in ("src", "tgt"):
        with memory.open(f"/corpus/train.{side}.gz", "wb") as stream:
            stream.write(gzip.compress(Path(f"train.{side}").read_bytes()))
    here = Path.cwd()
    for name, source in {
        "remote": "{src: 'memory://corpus/train.src.gz', tgt: 'memory://corpus/train.tgt.gz'}",
        "globbed": "{src: 'memory://corpus/*.src.gz', tgt: 'memory://corpus/*.tgt.gz'}",
        "local": f"{{src: 'file://{here}/train.src', tgt: 'file://{here}/train.tgt'}}",
    }.items():
        done = nmt("train", "c.yaml", "--set", f"run_dir={name}", "--set", f"data.train=[{source}]")
        assert done.code == 0, done.err
        assert open_run(name).sha256 == open_run("plain").sha256
    for url, why in {
        "memory://corpus/none": "memory://corpus/none: no such file",
        "nothing://corpus/c": "nothing://corpus/c: cannot be read (Protocol not known",
    }.items():
        done = nmt(
            "train", "c.yaml", "--quiet", "--fresh", "--set", f"data.train=[{{tsv: '{url}'}}]"
        )
        done.assert_refused(1, why)


def test_a_pipe_is_no_training_corpus(configure, nmt):
    configure("rnn")
    assert nmt("train", "c.yaml", "--set", "run_dir=ready").code == 0
    os.mkfifo("pipe")
    configure("rnn", tokenizer=None, data={"train": [{"tsv": "pipe"}]})
    done = nmt(
        "train", "c.yaml", "--quiet", "--set", "tokenizer={model: ready/tokenizer/spm.model}"
    )
    done.assert_refused(1, "pipe: is no regular file")


def test_the_benchmark_of_data_tokenises_as_a_run_does(configure, nmt, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import bench_data

    configure("rnn", data={"cache_dir": "cache"})
    assert nmt("train", "c.yaml").code == 0
    (folder,) = Path("cache").iterdir()
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    paths = [Path("train.src"), Path("train.tgt")]
    assert bench_data.tokenise(Path("cache"), Path("run"), paths, 60) > 0
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found.keys() == wanted.keys()
    ids = [name for name in wanted if "src" in name or "tgt" in name]
    assert ids and all(found[name] == wanted[name] for name in ids)
