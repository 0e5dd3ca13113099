"""The families by name, and how a third party adds one.

A family is one call, from a module that the configuration names under `plugins:` (or from the
entry-point group `nmt.families`):

    registry.register(
        "mine",
        families.FamilySchemas(encoder=MyEncoderOptions),
        registry.Builders(encoder=build_my_encoder),
    )

A side that is left out is not offered. Built-in families are imported when they are first built.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from nmt import errors
from nmt.config import families
from nmt.models import base

# Options are Any here because each family has its own schema, checked before it gets here.
EncoderBuilder = Callable[[Any], base.Encoder]
DecoderBuilder = Callable[[Any, int], base.Decoder]


@dataclasses.dataclass(frozen=True)
class Builders:
    """How the sides of a family are built.

    Attributes:
        encoder: checked options to encoder.
        decoder: checked options and the width of the memory to decoder.
    """

    encoder: EncoderBuilder | None = None
    decoder: DecoderBuilder | None = None


# Registration is what a registry is for: the one table that grows after import.
_builders: dict[str, Builders] = {}


def register(name: str, options_schema: families.FamilySchemas, builders: Builders) -> None:
    """Adds a model family.

    Args:
        name: what users write under `type:`.
        options_schema: a schema for each side that the family offers.
        builders: a builder for each side that the family offers.

    Raises:
        errors.ConfigError: the name is taken, or schema and builder do not offer the same sides.
    """
    for side in ("encoder", "decoder"):
        if (getattr(options_schema, side) is None) != (getattr(builders, side) is None):
            raise errors.ConfigError(
                f"model family '{name}': the {side} has a schema or a builder, but not both. "
                "Give both, or none."
            )
    families.register_options(name, options_schema)
    _builders[name] = builders


def build_encoder(options: families.FamilyOptions) -> base.Encoder:
    """Returns the encoder that these options describe."""
    builder = _find(options.type).encoder
    assert builder is not None, "the schema has checked that the family offers an encoder"
    return builder(options)


def build_decoder(options: families.FamilyOptions, memory_size: int) -> base.Decoder:
    """Returns the decoder that these options describe, for a memory of this width."""
    builder = _find(options.type).decoder
    assert builder is not None, "the schema has checked that the family offers a decoder"
    return builder(options, memory_size)


def _find(name: str) -> Builders:
    if name in families.BUILT_IN:
        module = importlib.import_module(f"nmt.models.{name}")
        return Builders(module.build_encoder, module.build_decoder)
    return _builders[name]
