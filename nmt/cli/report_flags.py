"""The flags of `nmt runs` and `nmt report`."""

import argparse

from nmt.cli import values

REPORT_FORMATS = ("html", "md")


def add_runs(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `nmt runs`."""
    verb.add_argument("folder", nargs="?", metavar="FOLDER", help="where to look. Default: runs")
    verb.add_argument("--json", action="store_true", help="print JSON")


def add_report(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `nmt report`."""
    verb.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of runs, also unfinished ones"
    )
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
    verb.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    verb.add_argument("--threads", type=values.positive, metavar="N", help="CPU threads")
