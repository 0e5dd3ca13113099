"""ROUGE-1, -2 and -L; the package rouge-score computes them."""

import re

from nmt.evaluation import metric
from nmt.runtime import characters

_WORDS = re.compile(r"[^\W_]+")


class _Words:
    """Cuts a line into words of letters, their marks and digits, in lower case.

    On ASCII these are the words of rouge-score's own tokenizer, which drops every letter beyond a to z
    and would find nothing in most languages.
    """

    def tokenize(self, text: str) -> list[str]:
        """Returns the words."""
        lowered = text.lower()
        if not lowered.isascii():
            # Vowel signs and accents on their own belong to the word, which `re` ends before them.
            parts = (one if characters.is_word_part(one) else " " for one in lowered)
            return "".join(parts).split()
        return _WORDS.findall(lowered)


class Rouge1(metric.LineMetric):
    """ROUGE-1: mean over lines of F1 over words. Of several references the best one counts."""

    label = "ROUGE-1"
    kind = "rouge1"

    def __init__(self, settings: metric.MetricSettings) -> None:
        """Takes how text is compared.

        Raises:
            errors.UsageError: rouge-score is not installed.
        """
        super().__init__(settings)
        try:
            from rouge_score import rouge_scorer
        except ImportError as error:
            raise metric.missing_extra(self.label, "rouge", error) from error
        self._scorer = rouge_scorer.RougeScorer([self.kind], tokenizer=_Words())

    def fields(self) -> dict[str, str]:
        """Returns the settings for the signature; case never counts."""
        return {"case": "lc", "tok": "words", "stem": "no", "average": "lines"}

    def compare(self, hypothesis: str, reference: str) -> metric.Row:
        """Returns F1 of the line, and 1."""
        return [float(self._scorer.score(reference, hypothesis)[self.kind].fmeasure), 1]

    def figure(self, sums: metric.Row) -> float:
        """Returns the mean, in percent."""
        return metric.PERCENT * float(sums[0]) / float(sums[1])


class Rouge2(Rouge1):
    """ROUGE-2: the same over pairs of words."""

    label = "ROUGE-2"
    kind = "rouge2"


class RougeL(Rouge1):
    """ROUGE-L: the same over the longest common subsequence of words."""

    label = "ROUGE-L"
    kind = "rougeL"
