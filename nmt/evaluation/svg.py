"""Charts and heat maps as SVG, which stands in a page by itself and prints at any size.

Colours are those of Okabe and Ito (2008), which people tell apart however they see colours; curves have
dashes of their own as well, for print in black and white.
"""

import html
import math
import unicodedata
from collections.abc import Sequence

from nmt.evaluation import documents

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One less than there are colours, so that it takes 42 curves until a pair of both comes again.
DASHES = ("", "7 3", "2 2", "9 3 2 3", "5 2 1 2 1 2", "12 4")

# Of what is drawn here, for whoever puts it into a page or a file.
STYLE = (
    ".title { font-size: 14px; font-weight: 600; } .right { text-anchor: end; } "
    ".middle { text-anchor: middle; } .grid { stroke: #e2e2e2; } "
    ".curve { fill: none; stroke-width: 1.8; } .cell { stroke: #eee; }"
)

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 42
LEGEND_ROW = 18
CELL = 22
MAX_POINTS = 600
MAX_POWERS = 8
MAX_DIGITS = 12


def chart(content: documents.Chart) -> str:
    """Returns a line chart."""
    # Without points or not, a run has its colour in all charts, and its name where there are others.
    styles = {name: _style(place) for place, name in enumerate(content.curves)}
    curves = {name: thinned(points) for name, points in content.curves.items() if points}
    height = HEIGHT + LEGEND_ROW * (len(curves) if len(styles) > 1 else 0)
    body = [f'<text x="{LEFT}" y="18" class="title">{html.escape(content.title)}</text>']
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    if not xs:
        body.append(f'<text x="{LEFT}" y="{HEIGHT / 2}">no events</text>')
        return _svg(WIDTH, HEIGHT, content.title, body)
    is_log = content.is_logarithmic and min(ys) > 0
    x_ticks = ticks(0.0, max(xs))
    y_ticks = _log_ticks(min(ys), max(ys)) if is_log else ticks(min(ys), max(ys))
    x_span = (0.0, max(max(xs), x_ticks[-1]))
    y_span = (min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1]))

    def x_at(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / max(x_span[1], 1e-12)

    def y_at(value: float) -> float:
        low, high = (math.log10(v) if is_log else v for v in y_span)
        share = ((math.log10(value) if is_log else value) - low) / max(high - low, 1e-12)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    for tick, label in zip(y_ticks, labels(y_ticks), strict=True):
        y = y_at(tick)
        body.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>'
        )
        body.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="right">{label}</text>')
    for tick, label in zip(x_ticks, labels(x_ticks), strict=True):
        x = x_at(tick)
        body.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" class="middle">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    body.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" class="middle">{html.escape(content.x_label)}</text>'
    )
    for index, (name, points) in enumerate(curves.items()):
        style = styles[name]
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" class="curve" {style}/>')
        if len(points) == 1:
            x, y = points[0]
            body.append(
                f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" class="curve" {style}/>'
            )
        if len(styles) > 1:
            y = HEIGHT + LEGEND_ROW * index + 4
            body.append(
                f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 36}" y2="{y}" class="curve" {style}/>'
            )
            body.append(f'<text x="{LEFT + 44}" y="{y + 4}">{html.escape(name)}</text>')
    return _svg(WIDTH, height, content.title, body)


def _style(place: int) -> str:
    """Returns how the curve at this place looks."""
    colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
    return f'stroke="{colour}" stroke-dasharray="{dashes}"'


def heat_map(content: documents.HeatMap) -> str:
    """Returns a grid of squares, the darker the larger the value."""
    left = 14 + 8 * max(map(_width, content.rows), default=1)
    top = 34 + 7 * max(map(_width, content.columns), default=1)
    width = left + CELL * len(content.columns) + 10
    height = top + CELL * len(content.rows) + 10
    body = [f'<text x="4" y="16" class="title">{html.escape(content.title)}</text>']
    for number, column in enumerate(content.columns):
        x = left + CELL * number + CELL * 0.65
        body.append(
            f'<text transform="translate({x:.1f} {top - 6}) rotate(-60)">{html.escape(column)}</text>'
        )
    for number, (row, values) in enumerate(zip(content.rows, content.values, strict=True)):
        y = top + CELL * number
        body.append(f'<text x="{left - 6}" y="{y + 15}" class="right">{html.escape(row)}</text>')
        for place, value in enumerate(values):
            told = html.escape(f"{row} to {content.columns[place]}: {value:.2f}")
            body.append(
                f'<rect x="{left + CELL * place}" y="{y}" width="{CELL}" height="{CELL}" class="cell" '
                f'fill="{_blue(value)}"><title>{told}</title></rect>'
            )
    return _svg(max(width, 320), height, content.title, body)


def ticks(low: float, high: float) -> list[float]:
    """Returns about five round numbers that hold these two between them."""
    # What labels could not tell apart is one number.
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-10):
        low, high = low - abs(low) * 0.5 - 0.5, high + abs(high) * 0.5 + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)]


def thinned(points: documents.Series) -> documents.Series:
    """Returns so many points at most, as the means of neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns round numbers that hold these two between them: powers of ten, or 1, 2, 5 of each."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 1:
        return [tick for tick in ticks(low, high) if tick > 0]
    powers = [10.0**power for power in range(first, last + 1)]
    if last - first > 3:
        step = math.ceil((last - first) / MAX_POWERS)
        return [10.0**power for power in range(first, last + step, step)]
    finer = [round(factor * power, 12) for power in powers for factor in (1, 2, 5)]
    begin = max(place for place, tick in enumerate(finer) if tick <= low)
    end = min(place for place, tick in enumerate(finer) if tick >= high)
    return finer[begin : end + 1]


def labels(values: Sequence[float]) -> list[str]:
    """Returns round numbers in words of figures, all in one form and with all digits that they have."""
    largest = max(map(abs, values))
    form = _plain if 1e-3 <= largest < 1e7 else _scientific
    for digits in range(MAX_DIGITS + 1):
        found = [form(value, digits) for value in values]
        if all(
            abs(float(label.replace(",", "")) - value) <= 1e-9 * largest
            for label, value in zip(found, values, strict=True)
        ):
            break
    return found


def _plain(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def _scientific(value: float, digits: int) -> str:
    if not value:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if digits else mantissa}e{int(exponent)}"


def _width(text: str) -> int:
    """Returns the width of a text in letters; ideographs and their like take two."""
    return sum(1 + (unicodedata.east_asian_width(letter) in {"W", "F"}) for letter in text)


def _blue(value: float) -> str:
    """Returns white for 0 and a dark blue for 1."""
    share = min(max(value, 0.0), 1.0)
    red, green, blue = (round(255 + (end - 255) * share) for end in (0, 66, 120))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _svg(width: float, height: float, title: str, body: Sequence[str]) -> str:
    told = html.escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{told}">'
        f"<title>{told}</title>{''.join(body)}</svg>"
    )
