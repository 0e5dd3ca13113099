"""What `nmt translate` translates with, where that is not our own search."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nmt import errors
from nmt.config import loading as config_loading
from nmt.inference import loading, outcomes, requests
from nmt.interop import ctranslate2_engine, ctranslate2_folder

# Flags of `nmt translate` that mean to CTranslate2 what they mean to us; docs/export.md has the list.
# All others are refused, those included that are yet to come.
_DECODING_FLAGS = (
    "beam_size", "length_penalty", "min_length", "max_length", "patience", "exact_stop",
    "batch_tokens",
)  # fmt: skip
_OTHER_FLAGS = frozenset(
    {
        "verb", "quiet", "verbose", "engine", "model", "input", "output", "nbest", "format",
        "batch_size", "device", "threads",
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
    paths = loading.find_model(args.model)
    if len(paths) > 1:
        raise errors.UsageError(
            f"--model: CTranslate2 has no ensembles (given: {len(paths)} folders). Give one."
        )
    path = Path(paths[0])
    loading.set_up_threads(args.threads)
    note = ctranslate2_folder.read(path)
    given = {name: getattr(args, name) for name in _DECODING_FLAGS}
    decoding = config_loading.apply_decoding_flags(note.decoding_config(), given)
    return ctranslate2_engine.Engine(
        path,
        decoding,
        note.positions,
        num_best=num_best,
        batch_sentences=args.batch_size,
        device=ctranslate2_engine.resolve(args.device or "auto"),
    )


def _check_flags(args: argparse.Namespace) -> None:
    if args.format not in _FORMATS:
        raise errors.UsageError(
            f"--format: --engine ctranslate2 writes text and moses (given: {args.format})."
        )
    if getattr(args, "precision", None) is not None:
        raise errors.UsageError(
            f"--precision: an export has the precision it was written in (given: {args.precision}). "
            "Export the model with another --quantization."
        )
    for name, value in vars(args).items():
        is_given = value is not None and value is not False and value != []
        if is_given and name not in _DECODING_FLAGS and name not in _OTHER_FLAGS:
            raise errors.UsageError(
                f"--{name.replace('_', '-')}: does not go with --engine ctranslate2. "
                "Leave it out, or take --engine nmt."
            )
