"""Lines longer than a model reads, cut into parts that it does.

    "First one. Second one! And the third"  ->  "First one. Second one!", "And the third"

Parts end where sentences do, so far as the lines have any; a sentence that is too long alone ends at a
space, and a word that is too long alone anywhere.
"""

import itertools
import re
from collections.abc import Callable, Sequence

# Behind marks that end a sentence, with what closes quotes and brackets, and the spaces there; those of
# Chinese and Japanese need no space.
SENTENCE_ENDS = re.compile(
    r"(?<=[.!?\u2026])[\"'\u00bb\u201d\u2019)\]]*\s+"
    r"|(?<=[\u3002\uff01\uff1f])[\u300d\u300f\u201d\u2019\uff09]*\s*"
)
SPACES = re.compile(r"\s+")

Count = Callable[[Sequence[str]], list[int]]


def split(line: str, max_tokens: int, count: Count) -> list[str]:
    """Returns the parts of a line in their order, each of so many tokens at most.

    Args:
        line: any text.
        max_tokens: of a part, at least 1.
        count: returns how many tokens each text has.

    Returns:
        At least one part; none is blank but that of a blank line. A single character may have more
        tokens than fit, which nothing can help.
    """
    return _packed(line.strip(), max_tokens, count, [SENTENCE_ENDS, SPACES])


def _packed(
    text: str, max_tokens: int, count: Count, places: Sequence[re.Pattern[str]]
) -> list[str]:
    """Returns the longest runs of units that fit; units are what lies between the first places."""
    if count([text])[0] <= max_tokens or len(text) <= 1:
        return [text]
    if not places:
        half = len(text) // 2
        return [
            part
            for side in (text[:half], text[half:])
            for part in _packed(side, max_tokens, count, ())
        ]
    units = _units(text, places[0])
    lengths = count([unit.strip() for unit in units])
    parts: list[str] = []
    begin = 0
    while begin < len(units):
        end, total = begin + 1, lengths[begin]
        while end < len(units) and total + lengths[end] <= max_tokens:
            total += lengths[end]
            end += 1
        # Tokenizers that look across a border may need more tokens for the whole than for its units.
        while end > begin + 1 and count(["".join(units[begin:end]).strip()])[0] > max_tokens:
            end -= 1
        run = "".join(units[begin:end]).strip()
        # A unit that is too long alone is cut at the next best places.
        parts += [run] if end > begin + 1 else _packed(run, max_tokens, count, places[1:])
        begin = end
    return [part for part in parts if part]


def _units(text: str, places: re.Pattern[str]) -> list[str]:
    """Returns the text cut behind each of these places; nothing is lost."""
    ends = [match.end() for match in places.finditer(text)]
    bounds = sorted({0, *ends, len(text)})
    return [text[begin:end] for begin, end in itertools.pairwise(bounds)]
