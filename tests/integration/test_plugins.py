"""A family from outside: one file, one call of `register`, nothing else."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nmt import api
from nmt.config import families
from nmt.models import registry

# A mean of embeddings, and a small GRU that reads it at every step and does not attend.
PLUGIN = """
import dataclasses
from typing import Literal

import torch
from torch import nn

from nmt.config import families, knobs
from nmt.models import base, registry, state


class BagOptions(families.FamilyOptions):
    type: Literal["bag"] = knobs.knob("bag", "the family")
    embedding_size: int = knobs.knob(16, "width of the source embedding", unit="units", ge=1)
    dropout: float = knobs.knob(0.1, "dropout of embeddings", unit="rate", ge=0, lt=1)
    scale: bool = knobs.knob(False, "scale the embeddings")
    scale_factor: float = knobs.knob(2.0, "factor of the scale", gt=0)

    def inapplicable(self):
        return {} if self.scale else {"scale_factor": "scale is off"}


class GruOptions(families.FamilyOptions):
    type: Literal["bag"] = knobs.knob("bag", "the family")
    hidden_size: int = knobs.knob(32, "width of the state and of the embedding", ge=1)


class Bag(base.Encoder):
    def __init__(self, options):
        super().__init__()
        self.embedding_size = self.output_size = options.embedding_size
        self.factor = options.scale_factor if options.scale else 1.0
        self.dropout = nn.Dropout(options.dropout)

    def encode(self, embedded_BSE, mask_BS):
        states_BSM = self.dropout(embedded_BSE) * self.factor
        pooled_BM = base.masked_mean(states_BSM, mask_BS)
        return base.Memory(states_BSM, mask_BS, pooled_BM, values_BSM=states_BSM)


class Gru(base.Decoder):
    attends = False

    def __init__(self, options, memory_size):
        super().__init__()
        self.embedding_size = options.hidden_size
        self.cell = nn.GRUCell(options.hidden_size + memory_size, options.hidden_size)

    def decode(self, embedded_BTE, memory, *, with_attention=False):
        current, states = self.start(memory), []
        for embedded_BE in embedded_BTE.unbind(1):
            states_BE, _, current = self.step(embedded_BE, current)
            states.append(states_BE)
        return torch.stack(states, 1), None

    def start(self, memory):
        zeros_BE = memory.pooled_BM.new_zeros(len(memory.pooled_BM), self.embedding_size)
        return state.DecoderState(
            sentence={"pooled": memory.pooled_BM}, hypothesis={"hidden": zeros_BE}
        )

    def step(self, embedded_NE, current, *, with_attention=False):
        pooled_NM = current.sentence["pooled"].repeat_interleave(current.num_hypotheses, 0)
        hidden_NE = self.cell(torch.cat([embedded_NE, pooled_NM], 1), current.hypothesis["hidden"])
        following = dataclasses.replace(
            current, position=current.position + 1, hypothesis={"hidden": hidden_NE}
        )
        return hidden_NE, None, following


registry.register(
    "bag",
    families.FamilySchemas(encoder=BagOptions, decoder=GruOptions),
    registry.Builders(encoder=Bag, decoder=Gru),
)
"""
BAG = {"encoder": {"type": "bag"}, "decoder": {"type": "bag"}}


@pytest.fixture(autouse=True)
def _registries_of_their_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers goes with it, as with a process."""
    monkeypatch.setattr(families, "_registered", dict(families._registered))
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    yield
    for name in ("nmt_plugin_bag", "bag_of_words"):
        sys.modules.pop(name, None)


@pytest.fixture
def configure_bag(configure: Callable[..., Path]) -> Callable[..., Path]:
    """A function like `configure`, for the family of the plugin."""

    def write(**changes) -> Path:
        Path("bag.py").write_text(PLUGIN)
        return configure("rnn", **{"plugins": ["bag.py"], "model": BAG, **changes})

    return write


def test_plugin_trains_and_resumes_like_a_family_of_ours(configure_bag, nmt, open_run):
    configure_bag(training={"validation_interval": 2, "logging_interval": 1})
    assert nmt("train", "c.yaml").code == 0
    done = nmt("train", "c.yaml", "--set", "training.max_updates=5")
    assert "resumed from update 2" in done.messages
    more = ["--set", "training.max_updates=5", "--set", "run_dir=whole"]
    assert nmt("train", "c.yaml", *more).code == 0
    assert open_run().sha256 == open_run("whole").sha256
    assert open_run().metrics == open_run("whole").metrics


def test_plugin_learns_translates_and_evaluates(configure_bag, nmt):
    # Sorted words: a task for a model that cannot see their order.
    learner = {"batch_tokens": 256, "max_updates": 150, "learning_rate": 0.03, "warmup_updates": 5}
    smooth = {"label_smoothing": 0.0, "schedule": "linear", "validation_interval": 1000}
    encoder = {"type": "bag", "dropout": 0.0}
    configure_bag(training=learner | smooth, model={"encoder": encoder, "decoder": BAG["decoder"]})
    words = ["ba", "de", "ki", "lo"]
    lines = [f"{a} {b}" for a in words for b in words]
    for name in ("train", "valid", "test"):
        for side, texts in (
            ("src", lines),
            ("tgt", [" ".join(sorted(line.split())) for line in lines]),
        ):
            Path(f"{name}.{side}").write_text("".join(f"{text}\n" for text in texts))
    assert nmt("train", "c.yaml").code == 0
    done = nmt("translate", "--precision", "fp64", stdin=Path("test.src").read_bytes())
    wanted = Path("test.tgt").read_text().split("\n")[:-1]
    assert sum(map(str.__eq__, done.lines, wanted)) >= 12
    assert nmt("evaluate", "--exact-match").out.startswith(b"exact match: ")
    one_by_one = ["translate", "--precision", "fp64", "--batch-size", "1", "--nbest", "3"]
    found = nmt(*one_by_one, stdin=Path("test.src").read_bytes())
    assert found.lines[::3] == done.lines
    model = api.load("run", precision="fp64")
    assert model.translate(lines) == done.lines
    [score] = model.score(["ba de"], ["ba de"])
    assert -1.0 < score < 0.0
    assert nmt("inspect").lines[2].startswith("encoder      bag (embedding_size 16")


@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_sides_of_a_plugin_go_with_every_family_of_ours(family, configure_bag, nmt):
    configure_bag()
    for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
        flags = [
            "--set",
            f"model.{side}={{type: {family}, hidden_size: 8}}",
            "--set",
            f"run_dir={other}",
        ]
        assert nmt("train", "c.yaml", *flags).code == 0
        assert len(nmt("translate", "--model", other, stdin=b"ba\n\nde\n").lines) == 3


@pytest.mark.parametrize(
    ("encoder", "parts"),
    [
        (
            {"type": "bag", "embeding_size": 4},
            ["model.encoder.embeding_size: unknown key for type bag.", "Did you mean 'embedding_size'?"],
        ),
        (
            {"type": "bag", "embedding_size": "wide"},
            ["model.encoder.embedding_size: wants a whole number (given: 'wide')"],
        ),
        (
            {"type": "bag", "dropout": 1.0},
            ["model.encoder.dropout: wants less than 1 (given: 1.0)"],
        ),
        (
            {"type": "bag", "scale_factor": 3.0},
            ["model.encoder.scale_factor: would be ignored, since scale is off"],
        ),
        ({"type": "bga"}, ["no encoder of this type (given: bga)", "Did you mean 'bag'?"]),
    ],
)  # fmt: skip
def test_options_of_a_plugin_are_checked_like_ours(encoder, parts, configure_bag, nmt):
    configure_bag(model={"encoder": encoder, "decoder": BAG["decoder"]})
    nmt("train", "c.yaml").assert_refused(2, *parts)
    assert not Path("run").exists()


def test_family_is_unknown_without_its_plugin(configure, nmt):
    configure("rnn", model=BAG)
    done = nmt("train", "c.yaml")
    assert done.code == 2
    assert "no encoder of this type (given: bag). Known: cnn, rnn, transformer." in done.messages[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "import nothing_of_this_name",
            "plugin 'bag.py': cannot be imported (ModuleNotFoundError: No module named",
        ),
        ("def", "plugin 'bag.py': cannot be imported (SyntaxError: invalid syntax"),
        (PLUGIN.replace('"bag",\n', '"rnn",\n'), "model family 'rnn': the name is taken"),
        (
            PLUGIN.replace(", decoder=Gru)", ")"),
            "model family 'bag': the decoder has a schema or a builder, but not both",
        ),
    ],
)
def test_broken_plugin_is_one_line(text, part, configure_bag, nmt):
    configure_bag()
    Path("bag.py").write_text(text)
    nmt("train", "c.yaml").assert_refused(2, " plugins.0: ", part)


def test_plugin_may_be_an_installed_module(configure, nmt, monkeypatch):
    Path("site").mkdir()
    Path("site/bag_of_words.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend("site")
    configure("rnn", plugins=["bag_of_words"], model=BAG)
    assert nmt("train", "c.yaml").code == 0
