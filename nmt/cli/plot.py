"""`nmt plot`: the curves and attention maps of a report as pictures of their own."""

import argparse
import logging
from pathlib import Path

from nmt.cli import report, report_flags
from nmt.evaluation import documents, pictures
from nmt.runtime import files

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Writes pictures of runs into a folder.

    Args:
        args: `runs`, `output`, `format`, `lines`, `no_translate`, `device`, `threads`.

    Returns:
        0.
    """
    report_flags.check_use(args)
    styles = args.format or pictures.FORMATS
    if "png" in styles:
        pictures.check_png()
    found = report.read(args.runs)
    folder = Path(args.output or "plots")
    files.make_dir(folder)  # before the work: a place that cannot be says so at once
    blocks = report.curves(found)
    if not args.no_translate:
        from nmt.cli import report_models  # with torch

        for one in found:
            blocks += report_models.attention_of_lines(
                one.name, one.folder, args.lines, device=args.device or "auto", threads=args.threads
            )
    drawn: set[str] = set()
    for block in blocks:
        if isinstance(block, documents.Text):
            logger.warning("%s", block.text)
        if not isinstance(block, documents.Chart | documents.HeatMap):
            continue
        picture = pictures.to_svg(block)
        name = pictures.file_name(block.title)
        # Titles may differ in what names of files have not.
        while name in drawn:
            name += "-"
        drawn.add(name)
        for style in styles:
            content = picture.encode() if style == "svg" else pictures.to_png(picture)
            with files.atomic_write(folder / f"{name}.{style}") as stream:
                stream.write(content)
    logger.info("%d pictures: %s", len(drawn), folder)
    return 0
