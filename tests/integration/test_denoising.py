"""Monolingual text is damaged and restored: every family, bit for bit, and a start for translation."""

from pathlib import Path

import pytest
import yaml

from nmt.data import sampling
from nmt.text import noise

MONO = [{"mono": "train.src", "lang": "aa"}, {"mono": "train.tgt", "lang": "bb"}]
VALID = [{"mono": "valid.src", "lang": "aa"}, {"mono": "valid.tgt", "lang": "bb"}]
NOISE = {"infill_rate": 0.3, "span_length": 1.5, "delete_rate": 0.1, "rotate_rate": 0.2}
BY_UPDATE = {"logging_interval": 1, "validation_interval": 4, "checkpoint_interval": 1}


@pytest.fixture
def denoise(configure):
    """A function that configures a denoising autoencoder."""

    def write(family: str = "rnn", data=None, **changes):
        values = {"train": MONO, "valid": VALID, "noise": NOISE, "test": None}
        training = {"max_updates": 6, "best_metric": "loss"} | changes.pop("training", {})
        return configure(
            family, data=values | (data or {}), training=BY_UPDATE | training, **changes
        )

    return write


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_same_bit_for_bit_with_any_number_of_workers(
    workers, denoise, nmt, open_run
):
    denoise(tokenizer={"type": "bpe", "vocab_size": 300, "sampling": "both"})
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    flags = ["--set", f"data.num_workers={workers}"]
    assert nmt("train", "c.yaml", *flags, "--set", "training.max_updates=2").code == 0
    assert nmt("train", "c.yaml", *flags).code == 0
    assert open_run().sha256 == open_run("whole").sha256
    losses = [
        [line["loss"] for line in open_run(name).metrics if line["event"] == "train"]
        for name in ("run", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_every_family_learns_to_restore_then_translates_from_there(
    family, denoise, configure, nmt, open_run
):
    learner = {"max_updates": 60, "learning_rate": 0.01, "warmup_updates": 10}
    denoise(family, training=learner | {"validation_interval": 20}, run_dir="base")
    assert nmt("train", "c.yaml").code == 0
    losses = [line["loss"] for line in open_run("base").metrics if line["event"] == "validation"]
    assert losses[-1] < losses[0]
    forth = {"src": "train.src", "tgt": "train.tgt", "tgt_lang": "bb"}
    configure(family, data={"train": [forth]}, training=BY_UPDATE | {"init_from": "base"})
    values = yaml.safe_load(Path("c.yaml").read_text())
    del values["tokenizer"]
    Path("c.yaml").write_text(yaml.safe_dump(values))
    assert nmt("train", "c.yaml").code == 0
    assert len(nmt("translate", "--model", "run", stdin=b"ba de\n").lines) == 1
    assert nmt("evaluate", "--model", "run").code == 0


def test_sources_are_damaged_and_targets_are_not(denoise, nmt, monkeypatch):
    seen = []
    draw = sampling.Sampler.draw

    def watched(self, data, indices, position):
        src, tgt = draw(self, data, indices, position)
        for place, index in enumerate(indices.tolist()):
            seen.append((index, data.src.sentence(index), src.sentence(place), tgt.sentence(place)))
        return src, tgt

    monkeypatch.setattr(sampling.Sampler, "draw", watched)
    denoise(training={"max_updates": 12, "batch_tokens": 256})
    assert nmt("train", "c.yaml").code == 0
    assert {index for index, *_ in seen} == set(range(120)), "both texts are trained on"
    # Tags come first, and stay; the rest is what the target has, before the damage.
    assert all(damaged[0] == clean[0] for _, clean, damaged, _ in seen)
    assert all(clean[1:] == tgt for _, clean, _, tgt in seen)
    changed = [damaged[1:] != tgt for _, _, damaged, tgt in seen]
    assert sum(changed) > 0.6 * len(changed)
    first = {index: damaged for index, _, damaged, _ in reversed(seen)}
    again = [damaged != first[index] for index, _, damaged, _ in seen]
    assert any(again), "each epoch draws anew"


def test_parallel_text_beside_it_stays_as_it_is(denoise, nmt, monkeypatch):
    both = {"src": "train.src", "tgt": "train.tgt", "tgt_lang": "bb"}
    damaged = []
    apply = noise.Noise.apply

    def watched(self, ids, generator):
        damaged.append(list(ids))
        return apply(self, ids, generator)

    monkeypatch.setattr(noise.Noise, "apply", watched)
    valid = {"src": "valid.src", "tgt": "valid.tgt"}
    # With target: source is reversed, so no damaged sentence of length 2 or more is one of `src`.
    denoise(
        data={"train": [both, {"mono": "train.tgt", "lang": "bb"}], "valid": valid},
        training={"max_updates": 9, "batch_tokens": 256},
    )
    assert nmt("train", "c.yaml").code == 0
    pieces = Path("run/tokenizer/spm.vocab").read_text().split("\n")
    texts = {
        "".join(pieces[token] for token in ids).replace("\u2581", " ").strip() for ids in damaged
    }
    assert texts == {line for line in Path("train.tgt").read_text().split("\n") if line}


def test_two_vocabularies_and_a_check_before(denoise, nmt, open_run):
    denoise("transformer", tokenizer={"type": "char", "vocab_size": 300, "shared": False})
    done = nmt("check", "c.yaml")
    assert done.code == 0
    assert "copy of the source" not in done.text
    assert nmt("train", "c.yaml").code == 0
    assert "<mask>" in Path("run/tokenizer/src.vocab").read_text()
    assert "<mask>" not in Path("run/tokenizer/tgt.vocab").read_text()


def test_a_run_and_its_damage_are_functions_of_its_seed(denoise, nmt, open_run, monkeypatch):
    usual = noise.Noise.apply
    states: list[object] = []

    def watched(self, ids, generator):
        states.append(generator.getstate())
        return usual(self, ids, generator)

    monkeypatch.setattr(noise.Noise, "apply", watched)
    first = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        states.clear()
        denoise(seed=seed, run_dir=name)
        assert nmt("train", "c.yaml").code == 0
        # Training comes before validation, whose damage is the same in every run.
        first[name] = states[0]
    assert open_run("a").sha256 == open_run("b").sha256 != open_run("c").sha256
    assert first["a"] == first["b"] != first["c"]
