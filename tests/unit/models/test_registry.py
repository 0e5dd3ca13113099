"""Families by name: ours, and those of a third party."""

from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from torch import nn

from nmt import errors
from nmt.config import families, knobs, schema
from nmt.models import base, cnn, registry, rnn, seq2seq, transformer


class BagOptions(families.FamilyOptions):
    """Options of an encoder that sees no order."""

    type: Literal["bag"] = "bag"
    size: int = knobs.knob(6, "width", ge=1)


class BagEncoder(base.Encoder):
    def __init__(self, options: BagOptions) -> None:
        super().__init__()
        self.embedding_size = self.output_size = options.size
        self.scale = nn.Parameter(torch.ones(options.size))

    def encode(self, embedded_BSE: torch.Tensor, mask_BS: torch.Tensor) -> base.Memory:
        states_BSM = embedded_BSE * self.scale
        return base.Memory(states_BSM, mask_BS, base.masked_mean(states_BSM, mask_BS), states_BSM)


SCHEMAS = families.FamilySchemas(encoder=BagOptions)
BUILDERS = registry.Builders(encoder=BagEncoder)


@pytest.fixture(autouse=True)
def _forget_families() -> Iterator[None]:
    known, built = dict(families._registered), dict(registry._builders)
    yield
    for table, before in ((families._registered, known), (registry._builders, built)):
        table.clear()
        table.update(before)


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [
        ("rnn", rnn.RnnEncoder, rnn.RnnDecoder),
        ("cnn", cnn.CnnEncoder, cnn.CnnDecoder),
        ("transformer", transformer.TransformerEncoder, transformer.TransformerDecoder),
    ],
)
def test_built_in_families_are_built_from_their_options(name, encoder, decoder):
    assert isinstance(
        registry.build_encoder(families.options_schema(name, "encoder")(type=name)), encoder
    )
    options = families.options_schema(name, "decoder")(type=name)
    assert isinstance(registry.build_decoder(options, 256), decoder)


def test_a_family_with_an_encoder_only_works_with_any_decoder():
    registry.register("bag", SCHEMAS, BUILDERS)
    for decoder in ("rnn", "cnn", "transformer"):
        config = schema.ModelConfig.model_validate(
            {"encoder": {"type": "bag", "size": 5}, "decoder": {"type": decoder}}
        )
        model = seq2seq.build(config, 9, 7, shared=False).eval()
        assert isinstance(model.encoder, BagEncoder)
        ids = torch.tensor([[4, 5, 2]])
        states, _ = model(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([[1, 4]]))
        assert model.logits(states).shape == (1, 2, 7)


def test_the_side_that_a_family_does_not_offer_is_refused_with_those_that_do():
    registry.register("bag", SCHEMAS, BUILDERS)
    assert "bag" in families.family_names("encoder")
    assert "bag" not in families.family_names("decoder")
    with pytest.raises(ValueError, match=r"no decoder of this type \(given: bag\).*cnn, rnn, tran"):
        schema.ModelConfig.model_validate({"decoder": {"type": "bag"}})


def test_an_unknown_family_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"given: transfromer.*Did you mean 'transformer'\?"):
        schema.ModelConfig.model_validate({"encoder": {"type": "transfromer"}})


def test_options_of_a_registered_family_are_checked():
    registry.register("bag", SCHEMAS, BUILDERS)
    with pytest.raises(ValueError, match="size"):
        schema.ModelConfig.model_validate({"encoder": {"type": "bag", "size": 0}})
    with pytest.raises(ValueError, match="sise"):
        schema.ModelConfig.model_validate({"encoder": {"type": "bag", "sise": 3}})


def test_registering_again_is_allowed_and_the_last_builder_counts():
    """A module may be loaded again, and brings new functions for the same schemas."""
    registry.register("bag", SCHEMAS, BUILDERS)
    calls = []

    def build(options: BagOptions) -> BagEncoder:
        calls.append(options)
        return BagEncoder(options)

    registry.register("bag", SCHEMAS, registry.Builders(encoder=build))
    registry.build_encoder(BagOptions())
    assert len(calls) == 1


def test_the_name_of_another_family_is_taken():
    registry.register("bag", SCHEMAS, BUILDERS)

    class OtherOptions(BagOptions):
        """Somebody else's."""

    for name in ("bag", "rnn"):
        with pytest.raises(errors.ConfigError, match=f"'{name}': the name is taken"):
            registry.register(name, families.FamilySchemas(encoder=OtherOptions), BUILDERS)
    encoder = registry.build_encoder(BagOptions())
    assert isinstance(encoder, BagEncoder)


@pytest.mark.parametrize(
    ("schemas", "builders", "side"),
    [
        (SCHEMAS, registry.Builders(), "encoder"),
        (families.FamilySchemas(), BUILDERS, "encoder"),
        (SCHEMAS, registry.Builders(encoder=BagEncoder, decoder=rnn.build_decoder), "decoder"),
    ],
)
def test_schemas_and_builders_offer_the_same_sides(schemas, builders, side):
    with pytest.raises(errors.ConfigError, match=f"'bag': the {side} has a schema or a builder"):
        registry.register("bag", schemas, builders)
    assert "bag" not in families.family_names("encoder")
