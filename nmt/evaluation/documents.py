"""What a report is made of, whichever form it takes: sections of texts, tables, charts and sentences."""

import dataclasses
from collections.abc import Mapping, Sequence

Series = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        header: of the columns.
        rows: as many cells each.
        summary: what it is called while it is folded away; None shows it at once.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: str | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over the same axis.

    Attributes:
        title: what is shown.
        x_label: of the axis below.
        curves: by name, points in the order of x.
        is_logarithmic: whether the axis on the left is; all values are above 0 then.
    """

    title: str
    x_label: str
    curves: Mapping[str, Series]
    is_logarithmic: bool = False


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """How much each target piece attends to each source piece.

    Attributes:
        title: what is shown.
        columns: source pieces.
        rows: target pieces.
        values: a row of numbers from 0 to 1 for each target piece.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Marked:
    """A line, in runs of words of which some are marked."""

    runs: Sequence[tuple[str, bool]]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One sentence side by side.

    Attributes:
        number: its line, from 1.
        lines: by name (source, reference, runs), with the words that differ marked.
        note: such as scores.
    """

    number: int
    lines: dict[str, Marked]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Several of them under a heading."""

    title: str
    sentences: Sequence[Sentence]


Block = Text | Table | Chart | HeatMap | Sentences


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report, with a heading of its own."""

    title: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: Sequence[Section]
