"""The corpus, the tokenizer and the configurations that all sides share."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks import nmt_side, processes, shapes

BATCH_TOKENS = 4096
LEARNING_RATE = 3e-4

# Training and validation, and the pieces that the text has words for.
CORPORA = {
    "multi30k": ("data/multi30k/train.{}.gz", "data/multi30k/val.{}.gz", 8000),
    "demo": ("data/demo/train.{}", "data/demo/valid.{}", 2000),
}


class MissingError(Exception):
    """There is no corpus; the text is the line to print."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What the sides read.

    Attributes:
        name: of the corpus.
        tokenizer: folder of the tokenizer.
        ids: the file of ids for the peers.
        configs: nmt's configuration of each shape.
        vocab_size: number of pieces.
        sums: lengths of the corpus.
    """

    name: str
    tokenizer: Path
    ids: Path
    configs: dict[str, Path]
    vocab_size: int
    sums: shapes.LengthSums


def prepare(work: Path) -> Prepared:
    """Trains the tokenizer, encodes the corpus and writes the configurations.

    Args:
        work: where to; what an earlier run left is made anew.

    Raises:
        MissingError: no corpus is there.
    """
    name = _available()
    configs = {shape: work / f"{shape}.yaml" for shape in shapes.SHAPES}
    for shape, path in configs.items():
        # JSON is YAML, too.
        path.write_text(json.dumps(configuration(name, shape), indent=1), encoding="utf-8")
    first = next(iter(configs.values()))
    tokenizer, ids = work / "tokenizer", work / "ids.json"
    shutil.rmtree(tokenizer, ignore_errors=True)
    nmt_side.make_tokenizer(first, tokenizer)
    corpus = nmt_side.encoded_corpus(first, tokenizer)
    ids.write_text(json.dumps(corpus), encoding="ascii")
    lengths = [(len(a) + 1, len(b) + 1) for a, b in zip(corpus["src"], corpus["tgt"], strict=True)]
    sums = shapes.LengthSums.of(lengths)
    return Prepared(name, tokenizer, ids, configs, corpus["vocab_size"], sums)


def configuration(name: str, shape: str) -> dict[str, Any]:
    """Returns the configuration with which nmt trains a shape; no pair of a corpus is left out."""
    train, valid, vocab_size = CORPORA[name]
    return {
        "run_dir": "runs/bench/unused",
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": [_entry(train)],
            "valid": _entry(valid),
            "max_length": 1024,
            "max_length_ratio": 1024.0,
        },
        "tokenizer": {"type": "bpe", "vocab_size": vocab_size, "shared": True},
        "model": shapes.SHAPES[shape].sections(),
        "training": {
            "batch_tokens": BATCH_TOKENS,
            "optimizer": "adam",
            "betas": [0.9, 0.98],
            "learning_rate": LEARNING_RATE,
            "label_smoothing": 0.1,
            "clip_norm": 1.0,
        },
    }


def _entry(pattern: str) -> dict[str, str]:
    paths = {side: processes.ROOT / pattern.format(lang) for side, lang in _SIDES.items()}
    return {side: str(path) for side, path in paths.items()}


_SIDES = {"src": "en", "tgt": "de"}


def _available() -> str:
    for name, (train, _, _) in CORPORA.items():
        if all(Path(path).exists() for path in _entry(train).values()):
            return name
    raise MissingError(
        "no corpus: run scripts/get_multi30k.py, or scripts/make_demo_corpus.py --output data/demo."
    )
