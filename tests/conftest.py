"""What many tests share: tiny models of every family, batches for them, the command, and its ranks."""

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

from nmt.cli import main as cli
from nmt.config import schema
from nmt.models import seq2seq

# Another test may have the disk or the processor to itself for a while.
hypothesis.settings.register_profile("nmt", deadline=None)
hypothesis.settings.load_profile("nmt")

FAMILIES = {
    "rnn": {"type": "rnn", "num_layers": 2, "embedding_size": 12, "hidden_size": 14},
    "cnn": {"type": "cnn", "num_layers": 2, "embedding_size": 12, "hidden_size": 10},
    "transformer": {
        "type": "transformer",
        "num_layers": 2,
        "hidden_size": 12,
        "num_heads": 2,
        "feedforward_size": 16,
    },
}


def _variants() -> dict[str, tuple[dict, dict]]:
    """Every pair of families, and every option that changes how a family computes."""
    found = {
        f"{encoder}-{decoder}": (FAMILIES[encoder], FAMILIES[decoder])
        for encoder, decoder in itertools.product(FAMILIES, FAMILIES)
    }
    rnn, transformer = FAMILIES["rnn"], FAMILIES["transformer"]
    for attention, cell, feeding in itertools.product(
        ("none", "additive", "general"), ("lstm", "gru"), (True, False)
    ):
        name = f"rnn-{attention}-{cell}-{'feeding' if feeding else 'parallel'}"
        options = {"attention": attention, "cell": cell, "input_feeding": feeding}
        found[name] = (rnn | {"cell": cell}, rnn | options)
    found["rnn-dot"] = (rnn, rnn | {"attention": "dot"})
    found["rnn-reversed"] = (
        rnn | {"bidirectional": False, "reverse_source": True},
        rnn | {"attention": "none"},
    )
    found["cnn-wide"] = (
        FAMILIES["cnn"] | {"kernel_size": 5},
        FAMILIES["cnn"] | {"kernel_size": 4, "num_layers": 3},
    )
    for name, options in {
        "post": {"norm_position": "post", "norm": "rmsnorm", "activation": "gelu"},
        "rotary": {"positions": "rotary", "activation": "swiglu"},
        "learned": {"positions": "learned", "max_positions": 40},
    }.items():
        found[f"transformer-{name}"] = (transformer | options, transformer | options)
    for name, options in {
        "ssru": {"autoregressive_layer": "ssru"},
        "ssru-post": {
            "autoregressive_layer": "ssru",
            "norm_position": "post",
            "norm": "rmsnorm",
            "positions": "learned",
            "max_positions": 40,
        },
        "average": {"autoregressive_layer": "average_attention"},
        "average-post": {
            "autoregressive_layer": "average_attention",
            "norm_position": "post",
            "norm": "rmsnorm",
            "activation": "swiglu",
        },
        "average-gates": {
            "autoregressive_layer": "average_attention",
            "average_feedforward": False,
        },
        "average-feedforward": {
            "autoregressive_layer": "average_attention",
            "average_gates": False,
        },
    }.items():
        found[f"transformer-{name}"] = (transformer, transformer | options)
    found["transformer-shallow"] = (
        transformer | {"num_layers": 3},
        transformer | {"num_layers": 1},
    )
    return found


VARIANTS = _variants()


@pytest.fixture
def variants() -> dict[str, tuple[dict, dict]]:
    """All that `variant` goes through, by name."""
    return VARIANTS


@pytest.fixture(params=sorted(VARIANTS))
def variant(request: pytest.FixtureRequest) -> tuple[dict, dict]:
    """Encoder and decoder options: all nine pairs, and every option of each family."""
    return VARIANTS[request.param]


@pytest.fixture(params=["rnn", "cnn", "transformer", "transformer-ssru", "transformer-average"])
def family(request: pytest.FixtureRequest) -> tuple[dict, dict]:
    """Encoder and decoder options of one family on both sides, for each kind of decoder state."""
    return VARIANTS.get(request.param) or (FAMILIES[request.param], FAMILIES[request.param])


@pytest.fixture
def build_model() -> Callable[..., seq2seq.Seq2Seq]:
    """A function that builds a tiny float64 model in evaluation mode, from options and a seed."""

    def build(pair: tuple[dict, dict], *, num_tgt: int = 11, seed: int = 0) -> seq2seq.Seq2Seq:
        torch.manual_seed(seed)
        config = schema.ModelConfig.model_validate(
            {"encoder": pair[0], "decoder": pair[1], "tie_embeddings": "none"}
        )
        model = seq2seq.build(config, 13, num_tgt, shared=False).double().eval()
        with torch.no_grad():
            # Fresh weights give nearly uniform probabilities; tests want clear decisions.
            for parameter in model.parameters():
                parameter.mul_(1.5)
            model.output.weight.mul_(3.0)
        return model

    return build


@dataclasses.dataclass(frozen=True)
class Sources:
    """A padded batch of source sentences."""

    ids: torch.Tensor
    mask: torch.Tensor
    lengths: list[int]

    def alone(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One sentence without padding."""
        ids = self.ids[index : index + 1, : self.lengths[index]]
        return ids, torch.ones_like(ids, dtype=torch.bool)


@pytest.fixture
def make_sources() -> Callable[..., Sources]:
    """A function that makes a random padded batch; what stands at padding is random, too."""

    def make(lengths: list[int], seed: int = 0) -> Sources:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(4, 13, (len(lengths), max(lengths)), generator=generator)
        mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
        for row, length in enumerate(lengths):
            ids[row, length - 1] = 2
        return Sources(ids, mask, lengths)

    return make


@pytest.fixture(scope="session")
def run_main() -> Callable[..., int]:
    """A function that runs `nmt` in this process, and leaves torch as it was: `nmt` sets it up."""

    def run(*argv: str | Path) -> int:
        threads, generator_state = torch.get_num_threads(), torch.get_rng_state()
        is_deterministic = torch.are_deterministic_algorithms_enabled()
        fills = torch.utils.deterministic.fill_uninitialized_memory
        try:
            return cli.main([str(argument) for argument in argv])
        finally:
            torch.set_num_threads(threads)
            torch.set_rng_state(generator_state)
            torch.use_deterministic_algorithms(is_deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fills

    return run


@pytest.fixture
def rank_environment() -> dict[str, str]:
    """Variables with which a process finds this `nmt`, takes one thread, and meets others at once."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    if sys.platform == "linux":
        # Gloo would ask for the address of the machine's name, which some machines do not know.
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    # Says where it was, should a rank crash.
    return {**variables, "PYTHONFAULTHANDLER": "1"}
