"""Starting from a model folder: its weights, its tokenizer, frozen parts; and muon, EMA in a run."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from nmt.checkpoint import folder, resume

BASE = {"max_updates": 2, "best_metric": "loss"}
BPE = {"type": "bpe", "vocab_size": 290}


@pytest.fixture
def base(configure, nmt):
    """A trained model in the folder `base`."""
    configure("transformer", training=BASE, run_dir="base")
    assert nmt("train", "c.yaml").code == 0
    return Path("base")


def configure_on(configure, tokenizer=None, model=None, **training):
    configure("transformer", training=BASE | {"init_from": "base"} | training)
    values = yaml.safe_load(Path("c.yaml").read_text())
    for key, section in (("tokenizer", tokenizer), ("model", model)):
        values.pop(key)
        if section is not None:
            values[key] = section
    Path("c.yaml").write_text(yaml.safe_dump(values))


def test_a_run_starts_from_the_weights_and_the_tokenizer(base, configure, nmt, open_run):
    configure_on(configure)
    assert nmt("train", "c.yaml").code == 0
    start = resume.load(Path("run"), 0) if 0 in resume.updates(Path("run")) else None
    assert start is not None
    for name, tensor in folder.read(base).tensors.items():
        assert torch.equal(start.tensors["weights"][name], tensor), name
    names = sorted(path.name for path in Path("base/tokenizer").iterdir())
    assert names == sorted(path.name for path in Path("run/tokenizer").iterdir())
    for name in names:
        found, wanted = (Path(run, "tokenizer", name).read_bytes() for run in ("run", "base"))
        assert found == wanted
    assert "weights of base, update 2" in open_run().log


def test_the_new_folder_needs_the_old_one_no_more(base, configure, nmt, open_run):
    configure_on(configure, checkpoint_interval=1, ema_decay=0.9)
    flags = ["--set", "training.max_updates=4"]
    assert nmt("train", "c.yaml", *flags, "--set", "run_dir=whole").code == 0
    assert nmt("train", "c.yaml").code == 0
    shutil.rmtree("base")
    assert len(nmt("translate", "--model", "run", stdin=b"ba\n").lines) == 1
    # Finished after two updates, it is extended, bit for bit.
    done = nmt("train", "c.yaml", *flags)
    assert done.code == 0
    assert "resumed from update 2" in done.messages
    assert open_run().sha256 == open_run("whole").sha256
    assert nmt("train", "run/config.yaml").code == 0
    assert "this run is finished" in open_run().log


def test_frozen_parts_stay_and_are_counted(base, configure, nmt, open_run):
    configure_on(configure, freeze=["encoder.*"], rate_factors={"decoder.*": 0.5})
    assert nmt("train", "c.yaml").code == 0
    old, new = (folder.read(Path(run)).tensors for run in ("base", "run"))
    for name, tensor in new.items():
        assert torch.equal(tensor, old[name]) == name.startswith("encoder."), name
    assert "million are frozen" in open_run().log


@pytest.mark.parametrize(
    ("given", "code", "parts"),
    [
        ({"tokenizer": {"vocab_size": 77}}, 2, ["tokenizer: is not the one", "vocab_size 77"]),
        (
            {"model": {"encoder": {"type": "transformer", "num_layers": 3, "hidden_size": 8}}},
            1,
            ["training.init_from: base", "missing: ", "misshapen: "],
        ),
        ({"freeze": ["encodr.*"]}, 2, ["training.freeze", "encodr.*", "near names: encoder."]),
        ({"init_from": "nowhere"}, 1, ["nowhere"]),
    ],
)
def test_what_does_not_fit_is_one_line(given, code, parts, base, configure, nmt):
    configure_on(configure, **given)
    nmt("train", "c.yaml", "--quiet").assert_refused(code, *parts)


def test_the_same_tokenizer_may_be_named(base, configure, nmt):
    configure_on(configure, tokenizer={"type": "word", "vocab_size": 300})
    assert nmt("train", "c.yaml").code == 0


def test_the_model_may_have_another_dropout(base, configure, nmt):
    sizes = {"type": "transformer", "num_layers": 1, "hidden_size": 8, "num_heads": 2}
    sizes |= {"feedforward_size": 16, "dropout": 0.3}
    configure_on(configure, model={"encoder": sizes, "decoder": sizes})
    assert nmt("train", "c.yaml").code == 0
    assert "dropout: 0.3" in Path("run/config.yaml").read_text()


def test_a_run_that_goes_on_is_checked_without_the_old_folder(base, configure, nmt):
    configure_on(configure, checkpoint_interval=1)
    assert nmt("train", "c.yaml").code == 0
    shutil.rmtree("base")
    done = nmt("check", "c.yaml", "--no-probe", "--set", "training.max_updates=4")
    assert done.code == 0, done.text


def test_sampling_is_the_new_run_s_own_and_has_to_go_with_the_rest(configure, nmt):
    configure("transformer", training=BASE, run_dir="base", tokenizer=BPE)
    assert nmt("train", "c.yaml").code == 0
    configure_on(configure)
    assert nmt("train", "c.yaml", "--set", "tokenizer.sampling=src").code == 0
    assert "sampling: src" in Path("run/config.yaml").read_text()
    Path("links.txt").write_text("0-0\n" * 60)
    flags = [
        "--set", "run_dir=other",
        "--set", "training.init_from=run",
        "--set", "training.guided_alignment_weight=0.1",
        "--set", "data.train.0.alignments=links.txt",
    ]  # fmt: skip
    nmt("train", "c.yaml", *flags).assert_refused(2, "does not go with tokenizer.sampling")
    assert nmt("train", "c.yaml", *flags, "--set", "tokenizer.sampling=none").code == 0
