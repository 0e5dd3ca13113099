"""A real tokenizer, tiny models of every family, and model folders, for text in and text out."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint import folder, weights
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.evaluation import mbr
from nmt.inference import loading, translator
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.search import beam
from nmt.text import sentencepiece_training, tokenizer

# What a translator of the tests is asked for where nothing else is said.
SETTINGS: dict[str, Any] = {"beam_size": 3, "max_length": 20}
FAMILIES: dict[str, dict[str, Any]] = {
    "rnn": {"type": "rnn", "embedding_size": 8, "hidden_size": 12},
    "cnn": {
        "type": "cnn",
        "num_layers": 2,
        "embedding_size": 8,
        "hidden_size": 8,
        "max_positions": 40,
    },
    "transformer": {
        "type": "transformer",
        "num_layers": 2,
        "hidden_size": 8,
        "num_heads": 2,
        "feedforward_size": 12,
    },
}
# By how much fresh weights, and EOS besides, are scaled: such weights give nearly uniform
# probabilities, and tests want clear decisions and sentences of many lengths.
SCALES = {"rnn": (1.5, 4.0), "cnn": (1.0, 2.5), "transformer": (1.5, 2.0)}
SHARED = "{vocab_size: 310}"
SEPARATE = "{vocab_size: 310, shared: false, tgt_vocab_size: 300}"
CONFIG = """\
run_dir: somewhere
data:
  src_lang: en
  tgt_lang: de
  train: [{src: a, tgt: b}]
  valid: {src: c, tgt: d}
"""


def _text(seed: int) -> list[str]:
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefgäß", k=generator.randint(1, 6))) for _ in range(60)]
    return [" ".join(generator.choices(words, k=generator.randint(1, 8))) for _ in range(200)]


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Two hundred lines, those that the tokenizer is trained on."""
    return _text(1)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Path]:
    """A function that trains the tokenizers of a new run folder and returns the folder."""

    def make(run_dir: Path, *, seed: int = 1, tgt_seed: int | None = None) -> Path:
        """Takes the seeds of the text; with a seed for the target there are two vocabularies."""
        settings = sentencepiece_training.TokenizerSettings(vocab_size=310)
        run_dir.mkdir(parents=True)
        tokenizer.build_tokenizers(
            run_dir / "tokenizer",
            settings,
            lambda: iter(_text(seed)),
            lambda: iter(_text(tgt_seed or seed)),
            shared=tgt_seed is None,
            tgt_vocab_size=None if tgt_seed is None else 300,
        )
        return run_dir

    return make


@pytest.fixture(scope="session")
def texts(
    make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> translator.Texts:
    """A tokenizer of 310 pieces, bytes among them, for both sides."""
    return loading.load_texts(make_tokenizer(tmp_path_factory.mktemp("inference") / "run"))


def _config(family: str, decoding: str, tokenizers: str = SHARED) -> schema.Config:
    options = ", ".join(f"{key}: {value}" for key, value in FAMILIES[family].items())
    model = f"model: {{encoder: {{{options}}}, decoder: {{{options}}}}}\n"
    text = f"{CONFIG}{model}tokenizer: {tokenizers}\ndecoding: {decoding}\n"
    return config_loading.parse(text, "test.yaml")


@pytest.fixture(scope="session")
def make_model() -> Callable[..., seq2seq.Seq2Seq]:
    """A function that builds a tiny random model, float64 unless told otherwise."""

    def make(
        family: str,
        seed: int = 0,
        *,
        sizes: tuple[int, int] = (310, 310),
        dtype: torch.dtype = torch.float64,
    ) -> seq2seq.Seq2Seq:
        torch.manual_seed(seed)
        shared = sizes[0] == sizes[1]
        model = seq2seq.build(_config(family, "{}").model, *sizes, shared=shared).to(dtype)
        with torch.no_grad():
            scale, eos_scale = SCALES[family]
            for parameter in model.parameters():
                parameter.mul_(scale)
            model.output.weight.mul_(2.0)
            model.output.weight[2].mul_(eos_scale)
        return model.eval()

    return make


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, make_model: Callable[..., seq2seq.Seq2Seq]) -> Any:
    """A model of each family; tests leave its weights alone."""
    return make_model(request.param)


@pytest.fixture(scope="session")
def rnn(make_model: Callable[..., seq2seq.Seq2Seq]) -> seq2seq.Seq2Seq:
    """A model, where its family does not matter."""
    return make_model("rnn")


@pytest.fixture(scope="session")
def arithmetic() -> devices.Arithmetic:
    """float64 on the CPU."""
    return devices.inference_arithmetic("fp64", torch.device("cpu"))


@pytest.fixture(scope="session")
def publish(make_tokenizer: Callable[..., Path]) -> Callable[..., Path]:
    """A function that puts a model into a new run folder and returns the folder."""

    def put(
        run_dir: Path,
        family: str,
        model: seq2seq.Seq2Seq,
        *,
        decoding: str = "{}",
        **seeds: int,
    ) -> Path:
        make_tokenizer(run_dir, **seeds)
        config = _config(family, decoding, SEPARATE if "tgt_seed" in seeds else SHARED)
        folder.publish(
            run_dir,
            config_text=config_loading.dump(config),
            tensors=weights.module_tensors(model),
            scores={"bleu": 1.0},
            update=7,
        )
        return run_dir

    return put


@pytest.fixture
def make(
    texts: translator.Texts, arithmetic: devices.Arithmetic
) -> Callable[..., translator.Translator]:
    """A function that makes a translator: decoding settings over a beam of three."""

    def build(
        model: seq2seq.Seq2Seq,
        *,
        num_best: int = 1,
        batch_sentences: int | None = None,
        risk: mbr.Settings | None = None,
        **decoding: Any,
    ) -> translator.Translator:
        return translator.Translator(
            model,
            texts,
            schema.DecodingConfig(**SETTINGS | decoding),
            arithmetic,
            num_best=num_best,
            batch_sentences=batch_sentences,
            risk=risk,
        )

    return build


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each call of the beam search was given; the search itself goes on as usual."""
    calls: list[dict[str, Any]] = []
    search = beam.search

    def spy(model, src_BS, src_mask_BS, requests, ids):
        settings = requests[0].settings
        calls.append({"ids": src_BS, "mask": src_mask_BS, "settings": settings, "special": ids})
        return search(model, src_BS, src_mask_BS, requests, ids)

    monkeypatch.setattr(beam, "search", spy)
    return calls
