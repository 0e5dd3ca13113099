"""From a model folder to a model in memory."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nmt import errors
from nmt.checkpoint import folder, manifests, weights
from nmt.config import loading, schema
from nmt.inference import shortlists, translator
from nmt.models import base, packed, quantized, seq2seq
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
        shortlist: what each sentence may be translated with; None for the whole vocabulary.
    """

    model: base.ForcedModel
    texts: translator.Texts
    config: schema.Config
    arithmetic: devices.Arithmetic
    shortlist: shortlists.Shortlist | None = None


def load(
    path: Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    shortlist: bool | None = None,
) -> Loaded:
    """Loads a model folder, after checking every file against its checksum.

    Args:
        path: the folder.
        device: as in the configuration.
        precision: arithmetic, or None for that of the configuration; `auto` is what `nmt optimize`
            chose, else fp32.
        shortlist: whether to take the one in the folder; None for what `nmt optimize` chose.

    Raises:
        errors.ModelError: a file is missing, torn, altered or does not fit.
    """
    stored = folder.read(path)
    config = loading.parse(stored.config_text, str(path / "config.yaml"))
    where = devices.resolve(device)
    precision = precision or config.decoding.precision
    optimized = stored.manifest.optimized
    if not counts_here(optimized):
        is_missed = shortlist is None and optimized.get("shortlist")
        if where.type == "cpu" and (precision == "auto" or is_missed):
            logger.warning(
                "optimized: the choice of `nmt optimize` was made on another processor (%s) and does "
                "not count here. Run it again.",
                optimized.get("processor"),
            )
        optimized = {}
    found = _shortlist(path, stored.manifest, optimized, where, wanted=shortlist)
    if precision == "auto" and where.type == "cpu":
        precision = _chosen_precision(optimized)
    arithmetic = devices.inference_arithmetic(precision, where)
    texts = dataclasses.replace(load_texts(path), languages=config.data.languages)
    model = seq2seq.build(
        config.model,
        len(texts.src.vocab),
        len(texts.tgt.vocab),
        shared=config.tokenizer.is_shared,
    )
    # In this order, so that weights of a wider type are not rounded on their way.
    model.to(where, arithmetic.weights_dtype)
    weights.load_into(model, stored.tensors, str(path / "model.safetensors"))
    model.eval()
    if where.type == "cpu":
        quantized.prepare(model, arithmetic.name)
    return Loaded(model, texts, config, arithmetic, found)


def counts_here(optimized: Mapping[str, Any]) -> bool:
    """Returns whether a choice of `nmt optimize` was made on a processor like this one, if any was."""
    return optimized.get("processor") in (None, devices.processor())


def _shortlist(
    path: Path,
    manifest: manifests.Manifest,
    optimized: Mapping[str, Any],
    where: torch.device,
    *,
    wanted: bool | None,
) -> shortlists.Shortlist | None:
    """Returns the shortlist to use, or None."""
    if wanted is None:
        wanted = bool(optimized.get("shortlist")) and where.type == "cpu"
        if wanted:
            logger.info("shortlist: in use, which `nmt optimize` chose")
    if not wanted:
        return None
    name = folder.shortlist_file(manifest)
    if name is None:
        raise errors.UsageError(
            f"--shortlist: {path} has none. Learn one with `nmt optimize --shortlist {path}`."
        )
    if where.type != "cpu":
        raise errors.UsageError(f"--shortlist: is for the CPU (device: {where}). Leave it out.")
    return shortlists.Shortlist.from_tensors(weights.load_tensors(path / name))


def _chosen_precision(optimized: Mapping[str, Any]) -> str:
    """Returns the precision that `nmt optimize` chose, and says so; `auto` where it did not."""
    chosen = optimized.get("precision")
    if chosen is None:
        return "auto"
    kernels = {"int8": packed.has_int8, "bf16": packed.has_packed_bf16}
    if chosen in kernels and not kernels[chosen]():
        logger.warning(
            "precision: this torch lacks %s, which `nmt optimize` chose; taking fp32.", chosen
        )
        return "fp32"
    logger.info("precision: %s, which `nmt optimize` chose", chosen)
    return str(chosen)


def load_all(
    paths: Sequence[Path],
    *,
    device: str = "auto",
    precision: str | None = None,
    shortlist: bool | None = None,
    shares: Sequence[float] | None = None,
) -> Loaded:
    """Loads one model, or several as an ensemble.

    Args:
        paths: the folders; several have to have the same vocabularies.
        device: as in the configuration.
        precision: arithmetic, or None for that of the first configuration.
        shortlist: as for `load`; several models have none.
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
    if len(paths) > 1:
        if shortlist:
            raise errors.UsageError("--shortlist: is for one model. Leave it out, or name one.")
        shortlist = False
    first = load(paths[0], device=device, precision=precision, shortlist=shortlist)
    if len(paths) == 1:
        return first
    precision = first.arithmetic.name
    parts = [first]
    for path in paths[1:]:
        parts.append(load(path, device=device, precision=precision, shortlist=False))
    for path, part in zip(paths[1:], parts[1:], strict=True):
        for side in ("src", "tgt"):
            ours, theirs = getattr(first.texts, side).vocab, getattr(part.texts, side).vocab
            if ours != theirs:
                raise errors.UsageError(
                    f"--model {path}: its {side} vocabulary is not that of {paths[0]}. An ensemble "
                    "has one vocabulary per side. Train the models with one tokenizer."
                )
        if part.texts.languages != first.texts.languages:
            raise errors.UsageError(
                f"--model {path}: translates into other languages than {paths[0]} (given: "
                f"{', '.join(part.texts.languages) or 'no tags'}). An ensemble has the same tags."
            )
    return dataclasses.replace(
        first, model=ensemble.Ensemble([part.model for part in parts], shares)
    )


def load_texts(path: Path) -> translator.Texts:
    """Returns the tokenizers of a model folder, without its target languages."""
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
