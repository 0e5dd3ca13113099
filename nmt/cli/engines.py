"""What `nmt translate` translates with, where that is not our own search."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nmt import errors
from nmt.checkpoint import folder
from nmt.config import loading as config_loading
from nmt.inference import loading, outcomes, requests
from nmt.interop import ctranslate2_engine, ctranslate2_folder, ctranslate2_kept
from nmt.runtime import device as devices

logger = logging.getLogger(__name__)

# Flags of `nmt translate` that mean to CTranslate2 what they mean to us; docs/export.md has the list.
# All others are refused, those included that are yet to come.
_DECODING_FLAGS = (
    "beam_size", "length_penalty", "min_length", "max_length", "patience", "exact_stop",
    "batch_tokens",
)  # fmt: skip
_OTHER_FLAGS = frozenset(
    {
        "verb", "quiet", "verbose", "engine", "model", "input", "output", "nbest", "format",
        "batch_size", "device", "precision", "threads",
    }
)  # fmt: skip
_FORMATS = (None, "text", "moses")


class Machine(Protocol):
    """What answers requests; see `inference.translator.Translator`."""

    default: requests.Request
    num_cut: int
    num_split: int

    def check(self, request: requests.Request, *, with_constraints: bool = False) -> None:
        """Refuses a request before any work, if it is impossible."""

    def readable(self, request: requests.Request) -> str:
        """Returns as much of the text of a request as the model reads."""

    def answer(self, asked: Sequence[requests.Request]) -> list[outcomes.Outcome]:
        """Returns what becomes of each request; one that is impossible harms no other."""


def build_ctranslate2(args: argparse.Namespace, *, num_best: int) -> ctranslate2_engine.Engine:
    """Returns CTranslate2 with the exported folder and the settings that the command line names.

    Args:
        args: the flags of `nmt translate`.
        num_best: translations per line.

    Raises:
        errors.UsageError: a flag means something else to CTranslate2, or nothing.
        errors.ModelError: the folder is no export, or is damaged.
    """
    _check_flags(args)
    _check_precision(args)
    paths = loading.find_model(args.model)
    if len(paths) > 1:
        raise errors.UsageError(
            f"--model: CTranslate2 has no ensembles (given: {len(paths)} folders). Give one."
        )
    path = Path(paths[0])
    loading.set_up_threads(args.threads)
    note = ctranslate2_folder.read(path)
    decoding = config_loading.apply_decoding_flags(note.decoding_config(), _decoding_flags(args))
    return ctranslate2_engine.Engine(
        path,
        decoding,
        note.positions,
        num_best=num_best,
        batch_sentences=args.batch_size,
        device=ctranslate2_engine.resolve(args.device or "auto"),
    )


def build_chosen(args: argparse.Namespace) -> ctranslate2_engine.Engine | None:
    """Returns the engine that `nmt optimize` chose for the model, if the command line leaves it open.

    None is for our own search: nothing was chosen, the command line names what translates or asks for
    what the engine has not, or the engine cannot be used, of which there is a warning.

    Args:
        args: the flags of `nmt translate`.
    """
    if args.engine is not None or devices.resolve(args.device or "auto").type != "cpu":
        return None
    paths = [Path(name) for name in args.model or [folder.default_model()[0]]]
    if len(paths) != 1 or args.shortlist is not None:
        return None
    try:
        exported = ctranslate2_kept.find(paths[0])
    except (errors.FileError, errors.ModelError, errors.UsageError) as error:
        _warn_of_engine(error, paths[0])
        return None
    if exported is None:
        return None
    config = config_loading.parse(folder.read_config(paths[0]), str(paths[0] / folder.CONFIG))
    decoding = config_loading.apply_decoding_flags(config.decoding, _decoding_flags(args))
    if (args.precision or decoding.precision) != "auto":
        return None
    try:
        _check_flags(args)
        if (args.nbest or 1) > 1:
            raise errors.UsageError("--nbest: lists of CTranslate2 may end elsewhere.")
        loading.set_up_threads(args.threads)
        engine = ctranslate2_kept.load(exported, config.model, decoding, args.batch_size)
    except (errors.FileError, errors.ModelError) as error:
        _warn_of_engine(error, paths[0])
        return None
    except errors.UsageError as error:
        logger.info("engine: nmt, not the one that `nmt optimize` chose (%s)", error)
        return None
    loading.find_model(args.model)  # says which one it is, where none was named
    logger.info("engine: CTranslate2, which `nmt optimize` chose")
    return engine


def _warn_of_engine(error: errors.NMTError, path: Path) -> None:
    logger.warning(
        "engine: nmt, since the one that `nmt optimize` chose cannot be used (%s). "
        "Run `nmt optimize %s` again.",
        str(error).rstrip("."),
        path,
    )


def _decoding_flags(args: argparse.Namespace) -> dict[str, object]:
    return {name: getattr(args, name) for name in _DECODING_FLAGS}


def _check_flags(args: argparse.Namespace) -> None:
    if args.format not in _FORMATS:
        raise errors.UsageError(
            f"--format: --engine ctranslate2 writes text and moses (given: {args.format})."
        )
    for name, value in vars(args).items():
        is_given = value is not None and value is not False and value != []
        if is_given and name not in _DECODING_FLAGS and name not in _OTHER_FLAGS:
            raise errors.UsageError(
                f"--{name.replace('_', '-')}: does not go with --engine ctranslate2. "
                "Leave it out, or take --engine nmt."
            )


def _check_precision(args: argparse.Namespace) -> None:
    if args.precision is not None:
        raise errors.UsageError(
            f"--precision: an export has the precision it was written in (given: {args.precision}). "
            "Export the model with another --quantization."
        )
