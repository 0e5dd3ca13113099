"""`nmt export`: a model folder for another engine."""

import argparse
import itertools
import logging
from pathlib import Path

from nmt import errors
from nmt.checkpoint import folder
from nmt.config import loading as config_loading
from nmt.data import readers
from nmt.inference import loading
from nmt.interop import ctranslate2_export, ctranslate2_folder
from nmt.runtime import files

logger = logging.getLogger(__name__)

# Lines that both engines translate to compare them.
CHECK_LINES = 500


def run(args: argparse.Namespace) -> int:
    """Exports a model, compares both engines, and prints in what share of lines they agree.

    Args:
        args: `to`, `model`, `output`, `quantization`, `check`, `check_lines`, `threads`.

    Returns:
        0.

    Raises:
        errors.UsageError: the model cannot be exported there.
        errors.ModelError: the export translates differently; nothing is written then.
    """
    output = Path(args.output)
    ctranslate2_folder.check_free(output)
    loading.set_up_threads(args.threads)
    (run_dir,) = loading.find_model([args.model] if args.model else None)
    _check_languages(run_dir)
    lines = _check_lines(args, run_dir)
    quantization = args.quantization or "float32"
    result = ctranslate2_export.export(run_dir, output, quantization, lines)
    logger.info("%s: written in %s", output, quantization)
    for name, value in result.left_out.items():
        reason = "means something else to" if name == "length_penalty" else "is not known to"
        logger.warning(
            "decoding.%s: %s is not in the export, since it %s CTranslate2", name, value, reason
        )
    for name, found in result.agreements.items():
        print(f"{name}: {found.share:.1%} of {found.num_lines} lines translated alike")
    return 0


def _check_languages(run_dir: Path) -> None:
    """Refuses models with tags, which an export does not put before its sources.

    Raises:
        errors.UsageError: the model has some.
    """
    text = folder.read_config(run_dir)
    languages = config_loading.parse(text, str(run_dir / folder.CONFIG)).data.languages
    if languages:
        raise errors.UsageError(
            f"{run_dir}: an export sets no tags, which this model's sources begin with (languages: "
            f"{', '.join(languages)}). Translate with --engine nmt."
        )


def _check_lines(args: argparse.Namespace, run_dir: Path) -> list[str]:
    """Returns the lines of --check, or else of the sources that the model was validated on."""
    count = args.check_lines or CHECK_LINES
    if args.check is not None:
        lines = list(itertools.islice(files.read_lines(Path(args.check)), count))
        place = args.check
    else:
        text = folder.read_config(run_dir)
        valid = config_loading.parse(text, str(run_dir / folder.CONFIG)).data.valid_corpora[0]
        place = readers.describe(valid)
        try:
            lines = [src for src, _ in itertools.islice(readers.read_pairs(valid), count)]
        except (errors.FileError, errors.DataError) as error:
            raise errors.UsageError(
                f"--check: the validation set of the model cannot be read ({error}). "
                "Name a file of source lines with --check."
            ) from error
    if not any(line.strip() for line in lines):
        raise errors.DataError(f"{place}: has no line to check the export on. Give --check FILE.")
    return lines
