"""Guided alignment through `nmt train`: attention learns where it is told to look."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nmt.data import batches, readers
from nmt.inference import loading

TRAINING = {"max_updates": 150, "learning_rate": 0.03, "warmup_updates": 1, "batch_tokens": 200}


@pytest.fixture
def guide(configure) -> Callable[..., None]:
    """A function that writes a configuration and alignments: sources copied, in reverse order."""

    def write(family: str, *, weight: float = 1.0, model: dict[str, Any] | None = None) -> None:
        training = TRAINING | {"guided_alignment_weight": weight}
        path = configure(family, training=training, tokenizer={"vocab_size": 290})
        config = yaml.safe_load(path.read_text())
        if family == "transformer":
            for side in config["model"].values():
                side |= {"hidden_size": 32, "feedforward_size": 32}
            config["training"] |= {"learning_rate": 0.01, "max_updates": 200}
        config["model"]["decoder"] |= model or {}
        lines = []
        for line in Path("train.src").read_text().splitlines():
            last = len(line.split()) - 1
            lines.append(" ".join(f"{word}-{last - word}" for word in range(last + 1)))
        Path("train.align").write_text("".join(f"{line}\n" for line in lines))
        if weight:
            config["data"]["train"][0]["alignments"] = "train.align"
        path.write_text(yaml.safe_dump(config))

    return write


def weight_of_the_mirrored_word() -> float:
    """How much target words of the validation set attend to theirs, where all words are one piece."""
    loaded = loading.load(Path("run"), device="cpu", precision="fp32")
    found = []
    for src, tgt in readers.read_pairs(loaded.config.data.valid):
        sides = loaded.texts.src.encode(src), loaded.texts.tgt.encode(tgt)
        if len(sides[0]) != len(src.split()) or len(sides[1]) != len(tgt.split()):
            continue
        source = torch.tensor([*sides[0], loaded.texts.src.vocab.eos_id])
        src_ids, mask = batches.pad([source], loaded.texts.src.vocab.pad_id)
        given = torch.tensor([[loaded.texts.tgt.vocab.bos_id, *sides[1]]])
        with torch.no_grad():
            _, attention = loaded.model(src_ids, mask, given, with_attention=True)
        last = len(sides[1]) - 1
        found += [float(attention[0, word, last - word]) for word in range(last + 1)]
    assert len(found) > 20, "words are pieces"
    return sum(found) / len(found)


@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_attention_learns_the_alignments(family, guide, nmt):
    guide(family)
    assert nmt("train", "c.yaml").code == 0
    guided = weight_of_the_mirrored_word()
    guide(family, weight=0.0)
    assert nmt("train", "c.yaml", "--fresh").code == 0
    plain = weight_of_the_mirrored_word()
    assert guided > plain + 0.1, (guided, plain)


def test_a_guided_run_resumes_bit_for_bit(guide, nmt):
    guide("transformer")
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    for end in (23, 200):
        assert nmt("train", "c.yaml", f"--set=training.max_updates={end}").code == 0
    weights = [Path(run, "checkpoints/00000200/weights.safetensors") for run in ("run", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    random.seed(1)
    lines = Path("train.align").read_text().splitlines()
    random.shuffle(lines)
    Path("train.align").write_text("".join(f"{line}\n" for line in lines))
    refused = nmt("train", "c.yaml", "--set=training.max_updates=220")
    assert refused.code == 1 and "the training corpora are not those" in refused.messages[-1]


def test_what_would_be_ignored_or_cannot_be_is_one_line(guide, nmt):
    guide("rnn", model={"attention": "none"})
    nmt("train", "c.yaml").assert_refused(2, "guided_alignment_weight", "attention is none")
    guide("rnn")
    for overrides, part in (
        (["training.guided_alignment_weight=0"], "alignments would be ignored"),
        (["tokenizer.type=bpe", "tokenizer.sampling=src"], "does not go with tokenizer.sampling"),
        (["training.rdrop_weight=1"], "does not go with training.rdrop_weight"),
    ):
        flags = [f"--set={override}" for override in overrides]
        nmt("train", "c.yaml", *flags).assert_refused(2, part)
    Path("train.align").unlink()
    nmt("train", "c.yaml", "--fresh").assert_refused(1, "train.align")
    Path("train.align").write_text("0-0\n")
    done = nmt("train", "c.yaml", "--fresh")
    assert done.code == 1 and "train.align: has fewer lines" in done.messages[-1]
    checked = nmt("check", "c.yaml", "--no-probe")
    assert checked.code == 1 and "differ in their number of lines" in checked.text
