"""The option schemas of the model families: what may stand under `model.encoder` and `model.decoder`.

A family has a name (`rnn`) and, for each side that it offers, a schema of options. Built-in families
are listed below; a plugin adds its own through `nmt.models.registry.register`, which hands the
schemas to `register_options`, so that a plugin's options are checked exactly like ours.
"""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import pathlib
import sys
from typing import Literal

import pydantic

from nmt import errors
from nmt.config import knobs

Side = Literal["encoder", "decoder"]


class FamilyOptions(pydantic.BaseModel):
    """Base of every family's options: frozen, unknown keys forbidden."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: str

    def inapplicable(self) -> dict[str, str]:
        """Returns the options that the others make meaningless: name to reason."""
        return {}


@dataclasses.dataclass(frozen=True)
class FamilySchemas:
    """The option schemas of one family; a side that the family does not offer is None."""

    encoder: type[FamilyOptions] | None = None
    decoder: type[FamilyOptions] | None = None


class RnnEncoderOptions(FamilyOptions):
    """Recurrent encoder (Bahdanau et al. 2015; Sutskever et al. 2014)."""

    type: Literal["rnn"] = knobs.knob("rnn", "the family", why="")
    cell: Literal["lstm", "gru"] = knobs.knob(
        "lstm", "kind of recurrent cell", why="LSTM is the stronger one in most comparisons"
    )
    num_layers: int = knobs.knob(1, "stacked layers", unit="layers", ge=1)
    embedding_size: int = knobs.knob(256, "width of the source embedding", unit="units", ge=1)
    hidden_size: int = knobs.knob(
        512, "width of the states, both directions together", unit="units", ge=1
    )
    bidirectional: bool = knobs.knob(
        True, "read the source in both directions", why="attention profits from right context"
    )
    reverse_source: bool = knobs.knob(
        False,
        "read the source backwards (Sutskever et al. 2014, section 3.3)",
        why="only pays without attention; a bidirectional encoder reads backwards anyway",
    )
    dropout: float = knobs.knob(0.2, "dropout of embeddings and layers", unit="rate", ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> "RnnEncoderOptions":
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size: is halved between two directions, so it has to be even "
                f"(given: {self.hidden_size})"
            )
        return self

    def inapplicable(self) -> dict[str, str]:
        """Returns the options that the others make meaningless: name to reason."""
        if self.bidirectional:
            return {"reverse_source": "a bidirectional encoder reads the source backwards anyway"}
        return {}


class RnnDecoderOptions(FamilyOptions):
    """Recurrent decoder with or without attention (Bahdanau et al. 2015; Luong et al. 2015)."""

    type: Literal["rnn"] = knobs.knob("rnn", "the family", why="")
    cell: Literal["lstm", "gru"] = knobs.knob(
        "lstm", "kind of recurrent cell", why="LSTM is the stronger one in most comparisons"
    )
    num_layers: int = knobs.knob(1, "stacked layers", unit="layers", ge=1)
    embedding_size: int = knobs.knob(
        256, "width of the target embedding and of the output states", unit="units", ge=1
    )
    hidden_size: int = knobs.knob(512, "width of the recurrent state", unit="units", ge=1)
    attention: Literal["none", "additive", "dot", "general"] = knobs.knob(
        "general",
        "how the source is attended to; none = the fixed-vector encoder-decoder",
        why="general (Luong et al. 2015) is as good as additive and cheaper",
    )
    input_feeding: bool = knobs.knob(
        True,
        "feed the last attentional vector (without attention: the sentence vector) into each step",
        why="Luong et al. 2015, section 3.3; without it training is faster",
    )
    dropout: float = knobs.knob(0.2, "dropout of embeddings and layers", unit="rate", ge=0, lt=1)


class CnnEncoderOptions(FamilyOptions):
    """Convolutional encoder, ConvS2S (Gehring et al. 2017)."""

    type: Literal["cnn"] = knobs.knob("cnn", "the family", why="")
    num_layers: int = knobs.knob(4, "convolution blocks", unit="layers", ge=1)
    embedding_size: int = knobs.knob(256, "width of the source embedding", unit="units", ge=1)
    hidden_size: int = knobs.knob(256, "width of the convolutions", unit="units", ge=1)
    kernel_size: int = knobs.knob(
        3, "width of the convolution window; odd", unit="positions", ge=1, why="as in the paper"
    )
    max_positions: int = knobs.knob(1024, "longest source, learned positions", unit="tokens", ge=2)
    dropout: float = knobs.knob(0.2, "dropout of embeddings and layers", unit="rate", ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> "CnnEncoderOptions":
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: has to be odd (given: {self.kernel_size})")
        return self


class CnnDecoderOptions(FamilyOptions):
    """Convolutional decoder with attention in every layer, ConvS2S (Gehring et al. 2017)."""

    type: Literal["cnn"] = knobs.knob("cnn", "the family", why="")
    num_layers: int = knobs.knob(3, "convolution blocks", unit="layers", ge=1)
    embedding_size: int = knobs.knob(
        256, "width of the target embedding and of the output states", unit="units", ge=1
    )
    hidden_size: int = knobs.knob(256, "width of the convolutions", unit="units", ge=1)
    kernel_size: int = knobs.knob(
        3, "width of the convolution window", unit="positions", ge=1, why="as in the paper"
    )
    max_positions: int = knobs.knob(1024, "longest target, learned positions", unit="tokens", ge=2)
    dropout: float = knobs.knob(0.2, "dropout of embeddings and layers", unit="rate", ge=0, lt=1)


class _TransformerOptions(FamilyOptions):
    """What encoder and decoder of the Transformer share (Vaswani et al. 2017)."""

    type: Literal["transformer"] = knobs.knob("transformer", "the family", why="")
    num_layers: int = knobs.knob(4, "stacked layers", unit="layers", ge=1)
    hidden_size: int = knobs.knob(
        256, "width of the states and of the embedding", unit="units", ge=2
    )
    num_heads: int = knobs.knob(4, "attention heads; divides hidden_size", unit="heads", ge=1)
    feedforward_size: int = knobs.knob(
        1024,
        "width inside the feed-forward block",
        unit="units",
        ge=1,
        why="4 times the default width",
    )
    norm_position: Literal["pre", "post"] = knobs.knob(
        "pre", "normalise before or after a block", why="pre trains stably without care"
    )
    norm: Literal["layernorm", "rmsnorm"] = knobs.knob("layernorm", "kind of normalisation")
    activation: Literal["relu", "gelu", "swiglu"] = knobs.knob(
        "relu", "activation of the feed-forward block", why="the paper's; the cheapest"
    )
    positions: Literal["sinusoidal", "learned", "rotary"] = knobs.knob(
        "sinusoidal", "how positions are told", why="no length limit and nothing to learn"
    )
    max_positions: int = knobs.knob(
        1024, "longest sequence, for learned positions", unit="tokens", ge=2
    )
    dropout: float = knobs.knob(0.1, "dropout of embeddings and blocks", unit="rate", ge=0, lt=1)
    attention_dropout: float = knobs.knob(
        0.0, "dropout of attention weights", unit="rate", ge=0, lt=1, why="costs time, gains little"
    )
    activation_dropout: float | None = knobs.knob(
        None, "dropout inside feed-forward blocks; null = that of dropout", unit="rate", ge=0, lt=1
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "_TransformerOptions":
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads: has to divide hidden_size "
                f"(given: {self.num_heads} heads, width {self.hidden_size})"
            )
        if self.positions == "rotary" and (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"num_heads: rotary positions need an even width per head "
                f"(given: {self.hidden_size // self.num_heads})"
            )
        if self.positions == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size: sinusoidal positions need an even width (given: {self.hidden_size})"
            )
        return self

    def inapplicable(self) -> dict[str, str]:
        """Returns the options that the others make meaningless: name to reason."""
        if self.positions != "learned":
            return {"max_positions": f"{self.positions} positions have no limit"}
        return {}


class TransformerEncoderOptions(_TransformerOptions):
    """Transformer encoder (Vaswani et al. 2017)."""


class TransformerDecoderOptions(_TransformerOptions):
    """Transformer decoder (Vaswani et al. 2017), its self-attention replaceable for faster decoding."""

    autoregressive_layer: Literal["self_attention", "average_attention", "ssru"] = knobs.knob(
        "self_attention",
        "how a target position reads those before it: self-attention, the mean of the positions "
        "(Zhang et al. 2018) or a Simpler Simple Recurrent Unit (Kim et al. 2019)",
        why="the paper's; the others decode faster, at the same cost early and late",
    )
    average_gates: bool = knobs.knob(
        True, "gates between a position and the mean in average attention", why="as in the paper"
    )
    average_feedforward: bool = knobs.knob(
        True,
        "feed-forward layer over the mean in average attention, feedforward_size wide",
        why="as in the paper; false is faster",
    )

    @pydantic.model_validator(mode="after")
    def _check_autoregressive_layer(self) -> "TransformerDecoderOptions":
        if self.autoregressive_layer != "self_attention" and self.positions == "rotary":
            raise ValueError(
                "positions: rotary ones turn the queries and keys of self-attention, which the "
                f"decoder lacks (given: autoregressive_layer {self.autoregressive_layer}). "
                "Take sinusoidal or learned"
            )
        return self

    def inapplicable(self) -> dict[str, str]:
        """Returns the options that the others make meaningless: name to reason."""
        found = super().inapplicable()
        if self.autoregressive_layer != "average_attention":
            reason = f"autoregressive_layer is {self.autoregressive_layer}"
            found |= dict.fromkeys(("average_gates", "average_feedforward"), reason)
        return found


BUILT_IN = {
    "rnn": FamilySchemas(RnnEncoderOptions, RnnDecoderOptions),
    "cnn": FamilySchemas(CnnEncoderOptions, CnnDecoderOptions),
    "transformer": FamilySchemas(TransformerEncoderOptions, TransformerDecoderOptions),
}

# Registration is what a registry is for: the one table that grows after import.
_registered: dict[str, FamilySchemas] = {}


def register_options(name: str, schemas: FamilySchemas) -> None:
    """Adds a family's option schemas.

    Registering the same schemas twice is allowed (a module may be loaded again); taking the name of
    another family is not.

    Args:
        name: what users write under `type:`.
        schemas: the schema of each side that the family offers.

    Raises:
        errors.ConfigError: the name belongs to another family.
    """
    if name in BUILT_IN or _registered.get(name, schemas) != schemas:
        raise errors.ConfigError(
            f"model family '{name}': the name is taken. Register yours under another name."
        )
    _registered[name] = schemas


def family_names(side: Side) -> list[str]:
    """Returns the names of the families that offer this side."""
    known = BUILT_IN | _registered
    return sorted(name for name, schemas in known.items() if getattr(schemas, side) is not None)


def options_schema(name: str, side: Side) -> type[FamilyOptions]:
    """Returns the schema of one side of a family, looking among installed plugins too.

    Args:
        name: the family.
        side: `encoder` or `decoder`.

    Raises:
        ValueError: no family of that name offers this side; the text says which do.
        errors.ConfigError: an installed plugin of that name cannot be imported.
    """
    if name not in BUILT_IN and name not in _registered:
        _load_entry_point(name)
    schemas = (BUILT_IN | _registered).get(name)
    schema: type[FamilyOptions] | None = getattr(schemas, side) if schemas else None
    if schema is None:
        names = family_names(side)
        raise ValueError(
            f"type: no {side} of this type (given: {name}). "
            f"Known: {', '.join(names)}.{errors.did_you_mean(name, names)}"
        )
    return schema


def load_plugin(plugin: str) -> None:
    """Imports a plugin, which registers its families as it is imported.

    Args:
        plugin: a module name (`my_package.my_family`), or the path of a `.py` file.

    Raises:
        errors.ConfigError: the plugin is not there, or fails while it is imported.
    """
    try:
        if plugin.endswith(".py"):
            _load_file(pathlib.Path(plugin).resolve())
        else:
            importlib.import_module(plugin)
    except errors.NMTError:
        raise
    except Exception as error:  # whatever a third party's module can raise
        raise errors.ConfigError(
            f"plugin '{plugin}': cannot be imported ({type(error).__name__}: {error}). "
            "Name an installed module, or the path of a .py file, relative to this directory."
        ) from error


def _load_file(path: pathlib.Path) -> None:
    """Imports a Python file as a module of its own, once."""
    module_name = f"nmt_plugin_{path.stem}"
    if module_name in sys.modules and sys.modules[module_name].__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot be loaded as a module: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # A half-imported module must not pass for a loaded one at the next try.
        del sys.modules[module_name]
        raise


def _load_entry_point(name: str) -> None:
    for entry_point in importlib.metadata.entry_points(group="nmt.families"):
        if entry_point.name == name:
            try:
                entry_point.load()
            except ImportError as error:
                raise errors.ConfigError(
                    f"model family '{name}': its plugin {entry_point.value} cannot be imported "
                    f"({error}). Install or mend it."
                ) from error
