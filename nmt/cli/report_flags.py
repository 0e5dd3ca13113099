"""The flags of `nmt runs`, `nmt report` and `nmt plot`."""

import argparse

from nmt import errors
from nmt.cli import values

REPORT_FORMATS = ("html", "md")
PICTURE_FORMATS = ("svg", "png")


def add_runs(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `nmt runs`."""
    verb.add_argument("folder", nargs="?", metavar="FOLDER", help="where to look. Default: runs")
    verb.add_argument("--json", action="store_true", help="print JSON")


def check_use(args: argparse.Namespace) -> None:
    """Refuses what would be ignored.

    Raises:
        errors.UsageError: nothing is to be translated, but a flag is about how.
    """
    for name in ("lines", "sentences", "device", "threads"):
        if args.no_translate and getattr(args, name, None) is not None:
            raise errors.UsageError(
                f"--{name}: would be ignored with --no-translate. Leave one out."
            )


def add_report(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `nmt report`."""
    _add_folders(verb)
    verb.add_argument("--output", metavar="FILE", help="default: report.html or report.md")
    verb.add_argument(
        "--format",
        type=values.one_of(REPORT_FORMATS),
        metavar="|".join(REPORT_FORMATS),
        help="html = one file that opens without a network; md = for people without a browser",
    )
    verb.add_argument(
        "--no-translate",
        action="store_true",
        help="translate nothing: no scores by length, sentences and attention",
    )
    verb.add_argument(
        "--sentences", type=values.positive, metavar="N", help="of each kind. Default: 10"
    )
    _add_model(verb)


def add_plot(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `nmt plot`."""
    _add_folders(verb)
    verb.add_argument("--output", metavar="DIR", help="folder for the pictures. Default: plots")
    verb.add_argument(
        "--format",
        type=values.several_of(PICTURE_FORMATS),
        metavar=",".join(PICTURE_FORMATS),
        help="kinds of files. Default: both",
    )
    verb.add_argument("--no-translate", action="store_true", help="draw no attention")
    _add_model(verb)


def _add_folders(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of runs, also unfinished ones"
    )


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--lines",
        type=values.positives,
        metavar="N[,N]",
        help="lines of the validation set whose attention is drawn. Default: the first three that "
        "are neither short nor long",
    )
    verb.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    verb.add_argument("--threads", type=values.positive, metavar="N", help="CPU threads")
