"""Metrics for any sequences: matches, edit rates, and spans of tags."""

from collections.abc import Sequence

from nmt.evaluation import metric


class ExactMatch(metric.LineMetric):
    """Share of lines that equal a reference, to the last blank."""

    label = "exact match"
    is_share = True

    def compare(self, hypothesis: str, reference: str) -> metric.Row:
        """Returns whether the line matches, and 1."""
        return [hypothesis == reference, 1]

    def figure(self, sums: metric.Row) -> float:
        """Returns the share, in percent."""
        return metric.PERCENT * float(sums[0]) / float(sums[1])


class _TokenMetric(metric.LineMetric):
    """A metric over tokens between blanks."""

    skips_blank = True

    def fields(self) -> dict[str, str]:
        """Returns the settings for the signature."""
        return {**super().fields(), "tok": "blanks"}


class SequenceAccuracy(ExactMatch, _TokenMetric):
    """Share of lines whose tokens are those of a reference, whatever blanks are between them."""

    label = "sequence accuracy"
    skips_blank = False  # as for exact match, an empty line may be what is wanted

    def compare(self, hypothesis: str, reference: str) -> metric.Row:
        """Returns whether the line matches, and 1."""
        return [hypothesis.split() == reference.split(), 1]


class TokenAccuracy(_TokenMetric):
    """Share of tokens that stand at their place in the reference.

    The longer of the two sides counts, so that a missing token and one too many are both wrong.
    """

    label = "token accuracy"
    is_share = True

    def compare(self, hypothesis: str, reference: str) -> metric.Row:
        """Returns the right tokens and all of them."""
        tokens, wanted = hypothesis.split(), reference.split()
        right = sum(a == b for a, b in zip(tokens, wanted, strict=False))
        return [right, max(len(tokens), len(wanted))]

    def figure(self, sums: metric.Row) -> float:
        """Returns the share, in percent; nothing where nothing is wanted is all right."""
        return metric.PERCENT * float(sums[0]) / float(sums[1]) if sums[1] else metric.PERCENT


class WordErrorRate(_TokenMetric):
    """Insertions, deletions and substitutions of words, for each word of the reference.

    Of several references the one with the lowest rate counts.
    """

    label = "WER"
    is_error = True

    def __init__(self, settings: metric.MetricSettings) -> None:
        """Takes how text is compared.

        Raises:
            errors.UsageError: the package that computes edit distances is not installed.
        """
        super().__init__(settings)
        try:
            from rapidfuzz.distance import Levenshtein
        except ImportError as error:
            raise metric.missing_extra(self.label, "wer", error) from error
        self._distance = Levenshtein.distance

    def units(self, line: str) -> Sequence[str]:
        """Returns what is inserted, deleted and substituted."""
        return line.split()

    def compare(self, hypothesis: str, reference: str) -> metric.Row:
        """Returns the edits and the length of the reference."""
        wanted = self.units(reference)
        return [self._distance(self.units(hypothesis), wanted), len(wanted)]

    def figure(self, sums: metric.Row) -> float:
        """Returns the rate, in percent; all is wrong where nothing was wanted and something came."""
        if not sums[1]:
            return metric.PERCENT if sums[0] else 0.0
        return metric.PERCENT * float(sums[0]) / float(sums[1])


class CharacterErrorRate(WordErrorRate):
    """The same over characters, single blanks between words included."""

    label = "CER"

    def units(self, line: str) -> Sequence[str]:
        """Returns the characters."""
        return " ".join(line.split())

    def fields(self) -> dict[str, str]:
        """Returns the settings for the signature."""
        return {**super().fields(), "tok": "characters"}


class SpanF1(_TokenMetric):
    """F1 over the spans of BIO tags: right are kind, beginning and end. Micro average.

    A span begins with `B-KIND`, or with an `I-KIND` that continues no span of its kind, as conlleval and
    seqeval have it.
    """

    label = "span F1"

    def fields(self) -> dict[str, str]:
        """Returns the settings for the signature."""
        return {**super().fields(), "scheme": "BIO", "average": "micro"}

    def cased(self, line: str) -> str:
        """Returns the line as it is compared; what makes a tag of it keeps its case."""
        if not self.settings.lowercase:
            return line
        return " ".join(tag[0] + tag[1:].lower() for tag in line.split())

    def compare(self, hypothesis: str, reference: str) -> metric.Row:
        """Returns the right spans, those found and those wanted."""
        found, wanted = spans(hypothesis.split()), spans(reference.split())
        return [len(found & wanted), len(found), len(wanted)]

    def figure(self, sums: metric.Row) -> float:
        """Returns F1, in percent; no span where none is wanted is all right."""
        right, found, wanted = map(float, sums)
        return metric.PERCENT * 2 * right / (found + wanted) if found + wanted else metric.PERCENT


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Returns the kind, the first place and the place behind the end of each span.

    Args:
        tags: `B-KIND`, `I-KIND` and `O`; what is none of them stands outside of spans.
    """
    found = set()
    begin, open_kind = 0, None
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        inside = prefix in {"B", "I"}
        if open_kind is not None and (not inside or prefix == "B" or kind != open_kind):
            found.add((open_kind, begin, place))
            open_kind = None
        if inside and open_kind is None:
            begin, open_kind = place, kind
    return found
