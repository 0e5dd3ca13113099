"""Flags about what translates, and how fast: other engines, `nmt export`, `nmt optimize`."""

import argparse

from nmt.cli import values

ENGINES = ("nmt", "ctranslate2")
EXPORTS = ("ctranslate2",)
# What CTranslate2 stores weights in.
QUANTIZATIONS = (
    "float32", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16",
    "bfloat16",
)  # fmt: skip


def add_engine(verb: argparse.ArgumentParser) -> None:
    """Adds `--engine`."""
    verb.add_argument(
        "--engine",
        type=values.one_of(ENGINES),
        metavar="|".join(ENGINES),
        help="what translates; ctranslate2 takes a folder of `nmt export`. Default: nmt, or what "
        "`nmt optimize` chose",
    )


def add_tgt_lang(verb: argparse.ArgumentParser) -> None:
    """Adds `--tgt-lang`, for models of several directions."""
    verb.add_argument(
        "--tgt-lang",
        metavar="LANG",
        help="target language, of a model that was trained with tags. Default: its only one",
    )


def add_export(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `nmt export`."""
    verb.add_argument(
        "--to",
        type=values.one_of(EXPORTS),
        required=True,
        metavar="|".join(EXPORTS),
        help="the engine",
    )
    verb.add_argument(
        "--model",
        metavar="DIR",
        help="model folder (the run_dir of a configuration). Default: $NMT_MODEL, else the run that "
        "was last trained from this directory",
    )
    verb.add_argument(
        "--output", required=True, metavar="DIR", help="the new folder, not there yet"
    )
    verb.add_argument(
        "--quantization",
        type=values.one_of(QUANTIZATIONS),
        metavar="TYPE",
        help=f"how weights are stored: {', '.join(QUANTIZATIONS)}. Default: float32",
    )
    verb.add_argument(
        "--check",
        metavar="FILE",
        help="source lines on which both engines are compared. Default: data.valid of the model",
    )
    verb.add_argument(
        "--check-lines",
        type=values.positive,
        metavar="N",
        help="so many of them at most. Default: 500",
    )
    verb.add_argument("--threads", type=values.positive, metavar="N", help="CPU threads")


def add_optimize(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `nmt optimize`."""
    verb.add_argument("model", metavar="MODEL_DIR", help="folder of a run that has a model")
    verb.add_argument(
        "--data",
        nargs=2,
        metavar=("SRC", "TGT"),
        help="lines and their translations to measure on. Default: the model's validation set",
    )
    verb.add_argument(
        "--shortlist",
        action="store_true",
        help="also learn from the training data which targets a source may need, and measure that",
    )
    verb.add_argument(
        "--batch-size",
        type=values.positive,
        metavar="N",
        help="measure with so many sentences at a time, as they will come. Default: as many as fit",
    )
    verb.add_argument("--threads", type=values.positive, metavar="N", help="CPU threads")
