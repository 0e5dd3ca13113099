"""Every configuration that is shipped loads; its corpora need not be there."""

from pathlib import Path

import pytest

from nmt.config import loading
from nmt.models import seq2seq

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))


def test_there_are_configurations():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_loads_and_survives_a_round_trip(path: Path):
    config = loading.load(path)
    assert loading.parse(loading.dump(config), "round trip") == config
    assert Path(config.run_dir).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_model_can_be_built(path: Path):
    config = loading.load(path)
    model = seq2seq.build(config.model, 300, 300, shared=config.tokenizer.is_shared)
    assert model.num_parameters() > 0
