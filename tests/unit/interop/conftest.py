"""A real tokenizer, and tiny Transformers of every kind in run folders."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint import folder, weights
from nmt.config import loading as config_loading
from nmt.inference import loading
from nmt.interop import ctranslate2_export
from nmt.models import seq2seq
from nmt.text import sentencepiece_training, tokenizer

OPTIONS = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "feedforward_size": 20}


def text(seed: int) -> list[str]:
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefgäß", k=generator.randint(1, 6))) for _ in range(60)]
    return [" ".join(generator.choices(words, k=generator.randint(1, 8))) for _ in range(200)]


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Two hundred lines, those that the tokenizer is trained on."""
    return text(1)


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A tokenizer folder with one vocabulary (True), and one with two (False)."""
    where = tmp_path_factory.mktemp("tokenizers")
    settings = sentencepiece_training.TokenizerSettings(vocab_size=310)
    for shared in (True, False):
        tokenizer.build_tokenizers(
            where / str(shared),
            settings,
            lambda: iter(text(1)),
            lambda: iter(text(2)),
            shared=shared,
            tgt_vocab_size=None if shared else 300,
        )
    return {shared: where / str(shared) for shared in (True, False)}


def publish(run_dir: Path, tokenizer_dir: Path, sections: dict[str, Any], seed: int) -> Path:
    """Puts a random model that makes clear decisions into a new run folder."""
    run_dir.mkdir(parents=True)
    tokenizer.copy(tokenizer_dir, run_dir / "tokenizer")
    data = {"train": [{"src": "a", "tgt": "b"}], "valid": {"src": "valid.src", "tgt": "valid.tgt"}}
    values = {"run_dir": "x", "data": {"src_lang": "en", "tgt_lang": "de", **data}, **sections}
    config = config_loading.parse(json.dumps(values), "test.yaml")
    texts = loading.load_texts(run_dir)
    torch.manual_seed(seed)
    model = seq2seq.build(
        config.model,
        len(texts.src.vocab),
        len(texts.tgt.vocab),
        shared=config.tokenizer.is_shared,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(1.5)
        model.output.weight.mul_(2.0)
        ids = texts.tgt.vocab
        model.output.weight[ids.eos_id].mul_(2.0)
        # As in a model that was trained: nothing leads to what stands in no target.
        model.output.weight[[ids.bos_id, ids.pad_id]] *= 0.01
    folder.publish(
        run_dir,
        config_text=config_loading.dump(config),
        tensors=weights.module_tensors(model),
        scores={"bleu": 1.0},
        update=7,
    )
    return run_dir


@pytest.fixture
def make_run(tmp_path: Path, tokenizers: dict[bool, Path]) -> Callable[..., Path]:
    """A function that makes a run folder with a random model.

    Args are options of both sides, and `encoder`, `decoder`, `model`, `decoding` for one section;
    `shared=False` gives two vocabularies.
    """
    made = 0

    def make(*, shared: bool = True, seed: int = 0, **given: Any) -> Path:
        nonlocal made
        made += 1
        sections = {name: given.pop(name, {}) for name in ("encoder", "decoder", "model")}
        decoding = given.pop("decoding", {})
        side = {"type": "transformer", **OPTIONS, **given}
        values = {
            "model": {name: {**side, **sections[name]} for name in ("encoder", "decoder")}
            | sections["model"],
            "decoding": {"max_length": 40, **decoding},
            "tokenizer": {"vocab_size": 310}
            if shared
            else {"vocab_size": 310, "shared": False, "tgt_vocab_size": 300},
        }
        return publish(tmp_path / f"run{made}", tokenizers[shared], values, seed)

    return make


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, tokenizers: dict[bool, Path], corpus: list[str]
) -> Path:
    """A float32 export of a random model that ends many sentences; tests leave it as it is."""
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    where = tmp_path_factory.mktemp("exported")
    side = {"type": "transformer", **OPTIONS}
    values = {
        "model": {"encoder": side, "decoder": side, "tie_embeddings": "none"},
        "decoding": {"max_length": 40, "max_src_tokens": 30},
        "tokenizer": {"vocab_size": 310},
    }
    run_dir = publish(where / "run", tokenizers[True], values, 1)
    ctranslate2_export.export(run_dir, where / "out", "float32", corpus)
    return where / "out"
