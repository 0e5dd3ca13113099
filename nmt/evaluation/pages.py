"""A report as one HTML file that needs nothing else, or as Markdown."""

import html
import re
from collections.abc import Sequence

from nmt.evaluation import documents, svg

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1180px;
  margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; border-bottom: 1px solid #ccc; margin-top: 2.5rem; }
h3 { font-size: 1.05rem; }
nav a { margin-right: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: 0.25rem 0.8rem; border-bottom: 1px solid #ddd; vertical-align: top; }
th { background: #f3f3f3; }
.wide { overflow-x: auto; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; }
mark { background: #ffe8a3; padding: 0 0.1em; }
.sentence { margin: 0.8rem 0; padding: 0.5rem 0.8rem; border-left: 3px solid #0072B2; background: #fafafa; }
.sentence dt { color: #555; font-size: 0.85em; } .sentence dd { margin: 0 0 0.3rem 0; }
@media print { body { max-width: none; }
  svg, .sentence, tr { break-inside: avoid; } nav { display: none; } }
"""


# Nothing is loaded from anywhere; a browser enforces it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(document: documents.Document) -> str:
    """Returns a page that loads nothing from anywhere."""
    links = " ".join(
        f'<a href="#s{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(document.sections)
    )
    parts = [
        f'<section id="s{number}"><h2>{html.escape(section.title)}</h2>'
        f"{_html_blocks(section.blocks)}</section>"
        for number, section in enumerate(document.sections)
    ]
    title = html.escape(document.title)
    # An empty icon, so that no browser asks for one.
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{_STYLE}{svg.STYLE}</style></head>\n'
        f"<body><h1>{title}</h1><nav>{links}</nav>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _html_blocks(blocks: Sequence[documents.Block]) -> str:
    parts: list[str] = []
    pictures: list[str] = []
    for block in blocks:
        if isinstance(block, documents.Chart | documents.HeatMap):
            is_chart = isinstance(block, documents.Chart)
            pictures.append(svg.chart(block) if is_chart else svg.heat_map(block))  # type: ignore[arg-type]
            continue
        if pictures:
            parts.append(f'<div class="charts">{"".join(pictures)}</div>')
            pictures = []
        parts.append(_html_block(block))
    if pictures:
        parts.append(f'<div class="charts">{"".join(pictures)}</div>')
    return "".join(parts)


def _html_block(block: documents.Text | documents.Table | documents.Sentences) -> str:
    if isinstance(block, documents.Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, documents.Table):
        header = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in block.header)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in block.rows
        )
        head = f"<thead><tr>{header}</tr></thead>"
        table = f'<div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'
        if block.summary is None:
            return table
        return f"<details><summary>{html.escape(block.summary)}</summary>{table}</details>"
    shown = "".join(
        f'<div class="sentence"><dl><dt>line {one.number:,} {html.escape(one.note)}</dt>'
        + "".join(
            f"<dt>{html.escape(name)}</dt><dd>{_html_marked(line)}</dd>"
            for name, line in one.lines.items()
        )
        + "</dl></div>"
        for one in block.sentences
    )
    return f"<h3>{html.escape(block.title)}</h3>{shown}"


def _html_marked(line: documents.Marked) -> str:
    return " ".join(
        f"<mark>{html.escape(text)}</mark>" if is_marked else html.escape(text)
        for text, is_marked in line.runs
    )


# What Markdown would take for marks of its own, and HTML that it passes through.
_MARKS = re.compile(r"([\\`*_{}\[\]<>&~])")


def _plain(text: str) -> str:
    """Returns a text so that Markdown shows it as it is."""
    return _MARKS.sub(r"\\\1", text)


def to_markdown(document: documents.Document) -> str:
    """Returns the same in Markdown; of curves it has the first, the best and the last values."""
    lines = [f"# {_plain(document.title)}", ""]
    for section in document.sections:
        lines += [f"## {_plain(section.title)}", ""]
        for block in section.blocks:
            lines += [*_markdown_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_block(block: documents.Block) -> list[str]:
    if isinstance(block, documents.Text):
        return [_plain(block.text)]
    if isinstance(block, documents.Table):
        above = [] if block.summary is None else [f"{_plain(block.summary)}:", ""]
        return [*above, *_markdown_table(block.header, block.rows)]
    if isinstance(block, documents.Chart):
        rows = []
        for name, points in block.curves.items():
            values = [value for _, value in points]
            if values:
                figures = (values[0], min(values), max(values), values[-1])
                rows.append([name, *(f"{value:.5g}" for value in figures)])
        return [f"**{_plain(block.title)}**", "", *_markdown_table(
            ["", "first", "smallest", "largest", "last"], rows
        )]  # fmt: skip
    if isinstance(block, documents.HeatMap):
        best = [
            [
                row,
                block.columns[max(range(len(values)), key=values.__getitem__)],
                f"{max(values):.2f}",
            ]
            for row, values in zip(block.rows, block.values, strict=True)
        ]
        title = f"**{_plain(block.title)}**"
        return [title, "", *_markdown_table(["piece", "attends to", "weight"], best)]
    found = [f"### {_plain(block.title)}", ""]
    for one in block.sentences:
        found.append(f"- line {one.number:,} {_plain(one.note)}".rstrip())
        for name, line in one.lines.items():
            runs = ((_plain(text), is_marked) for text, is_marked in line.runs)
            shown = " ".join(f"**{text}**" if is_marked else text for text, is_marked in runs)
            found.append(f"  - {_plain(name)}: {shown}")
    return found


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *map(line, rows)]
