"""From a model folder to a model in memory."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from nmt import errors
from nmt.checkpoint import folder, weights
from nmt.config import loading, schema
from nmt.inference import translator
from nmt.models import base, seq2seq
from nmt.runtime import device as devices
from nmt.search import ensemble
from nmt.text import tokenizer

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model ready for use.

    Attributes:
        model: on the device, in evaluation mode; an ensemble where several were loaded.
        texts: the tokenizers of both sides.
        config: the configuration of the (first) model.
        arithmetic: device and precision.
    """

    model: base.Model
    texts: translator.Texts
    config: schema.Config
    arithmetic: devices.Arithmetic


def load(path: Path, *, device: str = "auto", precision: str | None = None) -> Loaded:
    """Loads a model folder, after checking every file against its checksum.

    Args:
        path: the folder.
        device: as in the configuration.
        precision: arithmetic, or None for that of the configuration.

    Raises:
        errors.ModelError: a file is missing, torn, altered or does not fit.
    """
    stored = folder.read(path)
    config = loading.parse(stored.config_text, str(path / "config.yaml"))
    where = devices.resolve(device)
    arithmetic = devices.inference_arithmetic(precision or config.decoding.precision, where)
    texts = load_texts(path)
    model = seq2seq.build(
        config.model,
        len(texts.src.vocab),
        len(texts.tgt.vocab),
        shared=config.tokenizer.is_shared,
    )
    # In this order, so that weights of a wider type are not rounded on their way.
    model.to(where, arithmetic.weights_dtype)
    weights.load_into(model, stored.tensors, str(path / "model.safetensors"))
    return Loaded(model.eval(), texts, config, arithmetic)


def load_all(
    paths: Sequence[Path],
    *,
    device: str = "auto",
    precision: str | None = None,
    shares: Sequence[float] | None = None,
) -> Loaded:
    """Loads one model, or several as an ensemble.

    Args:
        paths: the folders; several have to have the same vocabularies.
        device: as in the configuration.
        precision: arithmetic, or None for that of the first configuration.
        shares: how much each counts in the ensemble, above 0; None for equal ones.

    Raises:
        errors.ModelError: a folder cannot be used.
        errors.UsageError: the models have different vocabularies, or the shares do not fit them.
    """
    if shares is not None and (len(shares) != len(paths) or len(paths) == 1):
        raise errors.UsageError(
            "--ensemble-weights: wants one weight for each of several --model "
            f"(given: {len(shares)} for {len(paths)})."
        )
    first = load(paths[0], device=device, precision=precision)
    if len(paths) == 1:
        return first
    precision = first.arithmetic.name
    parts = [first, *(load(path, device=device, precision=precision) for path in paths[1:])]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        for side in ("src", "tgt"):
            ours, theirs = getattr(first.texts, side).vocab, getattr(part.texts, side).vocab
            if ours != theirs:
                raise errors.UsageError(
                    f"--model {path}: its {side} vocabulary is not that of {paths[0]}. An ensemble "
                    "has one vocabulary per side. Train the models with one tokenizer."
                )
    return dataclasses.replace(
        first, model=ensemble.Ensemble([part.model for part in parts], shares)
    )


def load_texts(path: Path) -> translator.Texts:
    """Returns the tokenizers of a model folder."""
    where = path / "tokenizer"
    return translator.Texts(
        tokenizer.Tokenizer.load(where, "src"), tokenizer.Tokenizer.load(where, "tgt")
    )


def find_model(named: Sequence[str] | None) -> list[Path]:
    """Returns the folders that the user named, or the default one, and says which on stderr.

    Args:
        named: from the command line; None or empty for the default.

    Raises:
        errors.ModelError: nothing was named and there is no default.
    """
    if named:
        return [Path(name) for name in named]
    path, origin = folder.default_model()
    logger.info("model: %s (%s)", path, origin)
    return [path]


def set_up_threads(threads: int | None) -> None:
    """Sets the number of CPU threads, if it is given."""
    if threads is not None:
        torch.set_num_threads(threads)
