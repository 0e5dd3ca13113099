"""Charts and heat maps as files of their own: SVG, and PNG made of it."""

import re

from nmt import errors
from nmt.evaluation import documents, metric, svg
from nmt.runtime import characters

FORMATS = ("svg", "png")

# Pixels for each unit of the drawing: sharp in print at half of a page's width.
ZOOM = 3

# By name, since what renders PNG knows no default; one of them is on nearly every machine.
_FONTS = "'DejaVu Sans', 'Liberation Sans', 'Noto Sans', Arial, Helvetica, sans-serif"
# What XML has no way to write.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_STYLE = f"text {{ font: 12px {_FONTS}; }} {svg.STYLE}"


def to_svg(content: documents.Chart | documents.HeatMap) -> str:
    """Returns a picture that stands alone, on white; characters that no picture can have are replaced."""
    drawn = svg.chart(content) if isinstance(content, documents.Chart) else svg.heat_map(content)
    drawn = _NO_XML.sub("\ufffd", characters.printable(drawn))
    head, end, rest = drawn.partition(">")
    return (
        f'{head}{end}<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{rest}\n'
    )


def to_png(picture: str) -> bytes:
    """Returns an SVG as PNG, with the fonts of this machine; `check_png` says whether it can."""
    import resvg_py

    found: bytes = resvg_py.svg_to_bytes(svg_string=picture, zoom=ZOOM)
    return found


def check_png() -> None:
    """Finds out whether PNG can be written, text included, which is left out without a word otherwise.

    Raises:
        errors.UsageError: the package that does it is not installed, or there is no font.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise metric.missing_extra("--format png", "plot", error) from error
    size = 'xmlns="http://www.w3.org/2000/svg" width="9" height="9"'
    blank, letter = (
        resvg_py.svg_to_bytes(
            svg_string=f'<svg {size}><text y="8" font-family="{_FONTS}">{text}</text></svg>'
        )
        for text in (" ", "M")
    )
    if blank == letter:
        raise errors.UsageError(
            "--format png: there is no font on this machine, so pictures would have no text. "
            "Install one (Debian: fonts-dejavu-core), or take --format svg."
        )


def file_name(title: str) -> str:
    """Returns the name of a file, without its end: `Validation BLEU` is `validation-bleu`."""
    return "-".join(re.findall(r"\w+", title.lower())) or "picture"
