"""What every metric is: counts for each line, and a figure from their sums.

A figure of a corpus is computed from sums of counts, so that a resampled corpus, a part of it and a single
line cost no second look at the text: intervals, paired tests and breakdowns work alike for every metric.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from nmt import errors

PERCENT = 100.0

# The counts of a line; those of several lines add up.
Row = Sequence[float]


@dataclasses.dataclass(frozen=True)
class MetricSettings:
    """How text is compared.

    Attributes:
        lowercase: compare without regard to case.
        tokenize: sacreBLEU's tokenizer for BLEU.
        comet_model: file of a COMET model, or with `may_download` the name of one.
        may_download: whether COMET may fetch models from the network.
    """

    lowercase: bool = False
    tokenize: str = "13a"
    comet_model: str | None = None
    may_download: bool = False


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure and how it was made.

    Attributes:
        name: of the metric, as it is printed.
        value: the figure, in percent (that of COMET as its model gives it).
        signature: of the settings, sacreBLEU's where it computes the figure.
        details: what sacreBLEU prints behind the figure.
        fields: the signature by name.
        mean: of the figures of resampled corpora; None without resampling.
        interval: half the width of the 95 % interval around it.
        decimals: of the figure, where nobody asks for others.
        is_share: whether it is a share of right lines or tokens, which is printed as `exact match: 33.3 %`.
    """

    name: str
    value: float
    signature: str
    details: str
    fields: dict[str, str]
    mean: float | None = None
    interval: float | None = None
    decimals: int = 2
    is_share: bool = False

    def text(self, width: int | None = None) -> str:
        """Returns the line that is printed: `BLEU|nrefs:1|... = 38.12 ...`.

        Args:
            width: decimals of the figure.
        """
        width = self.decimals if width is None else width
        spread = f" ({self._spread(width)})" if self.mean is not None else ""
        if self.is_share:
            return f"{self.name}: {self.value:.1f} %{spread} ({self.signature})"
        line = f"{self.name}|{self.signature} = {self.value:.{width}f}{spread} {self.details}"
        return line.rstrip()

    def as_json(self, width: int | None = None) -> dict[str, Any]:
        """Returns the figure under sacreBLEU's JSON keys.

        Args:
            width: decimals of the figure.
        """
        width = self.decimals if width is None else width
        found: dict[str, Any] = {"name": self.name, "score": float(f"{self.value:.{width}f}")}
        found["signature"] = self.signature
        if self.mean is not None:
            found["confidence_mean"] = float(f"{self.mean:.{width}f}")
            found["confidence_var"] = float(f"{self.interval:.{width}f}")
            found["confidence"] = self._spread(width)
        if self.details:
            found["verbose_score"] = self.details
        return {**found, **self.fields}

    def _spread(self, width: int) -> str:
        return f"μ = {self.mean:.{width}f} ± {self.interval:.{width}f}"


class Metric(abc.ABC):
    """A way to compare hypotheses with references.

    Attributes:
        label: the name as it is printed.
        is_error: whether lower is better.
        is_share: whether it is a share of right lines or tokens.
        decimals: of a figure, as it is printed.
    """

    label: ClassVar[str]
    is_error: ClassVar[bool] = False
    is_share: ClassVar[bool] = False
    decimals: ClassVar[int] = 2

    def __init__(self, settings: MetricSettings) -> None:
        """Takes how text is compared.

        Raises:
            errors.UsageError: a setting does not exist, or wants a package that is not installed.
        """
        self.settings = settings

    @abc.abstractmethod
    def rows(
        self,
        hypotheses: Sequence[str],
        references: Sequence[Sequence[str]],
        sources: Sequence[str] | None = None,
    ) -> list[Row]:
        """Returns the counts of each line.

        Args:
            hypotheses: a line each, one at least.
            references: one or more translations of the corpus, as many lines each.
            sources: as many lines; few metrics look at them.

        Raises:
            errors.UsageError: the metric wants sources and there are none.
        """

    @abc.abstractmethod
    def figure(self, sums: Row) -> float:
        """Returns the figure of lines whose counts have these sums."""

    def line_figure(self, row: Row) -> float:
        """Returns the figure of one line."""
        return self.figure(row)

    def details(self, sums: Row) -> str:
        """Returns what is printed behind the figure."""
        return ""

    @abc.abstractmethod
    def signature(self, num_refs: int, resampling: dict[str, str]) -> str:
        """Returns the settings as `name:value|name:value`.

        Args:
            num_refs: references of each line.
            resampling: what belongs there of intervals and tests: `bs`, `ar` and `seed`.
        """


class OwnMetric(Metric):
    """A metric that sacreBLEU does not have."""

    def fields(self) -> dict[str, str]:
        """Returns the settings for the signature, in order."""
        return {"case": "lc" if self.settings.lowercase else "mixed"}

    def signature(self, num_refs: int, resampling: dict[str, str]) -> str:
        """Returns the settings in sacreBLEU's form."""
        fields = {"nrefs": str(num_refs), **resampling, **self.fields()}
        return "|".join(f"{name}:{value}" for name, value in fields.items())

    def cased(self, line: str) -> str:
        """Returns the line as it is compared."""
        return line.lower() if self.settings.lowercase else line


class LineMetric(OwnMetric):
    """A metric that holds a line against one reference at a time; of several the best one counts.

    Attributes:
        skips_blank: whether a blank reference beside others is there for want of another one: it is no
            base of a rate, and has no tokens or spans to be right or wrong about.
    """

    skips_blank: ClassVar[bool] = False

    @abc.abstractmethod
    def compare(self, hypothesis: str, reference: str) -> Row:
        """Returns the counts of a line with one reference, both as they are compared."""

    def rows(
        self,
        hypotheses: Sequence[str],
        references: Sequence[Sequence[str]],
        sources: Sequence[str] | None = None,
    ) -> list[Row]:
        """Returns for each line the counts against the reference that is best for it."""
        best = min if self.is_error else max

        def compared(wanted: Sequence[str]) -> Sequence[str]:
            found = [line for line in wanted if line.strip()] if self.skips_blank else []
            return found or wanted

        return [
            best(
                (
                    self.compare(self.cased(hypothesis), self.cased(line))
                    for line in compared(wanted)
                ),
                key=self.figure,
            )
            for hypothesis, *wanted in zip(hypotheses, *references, strict=True)
        ]


def summed(rows: Sequence[Row]) -> Row:
    """Returns the sums of counts, as sacreBLEU adds them up."""
    from sacrebleu.utils import sum_of_lists

    sums: Row = sum_of_lists(rows)  # type: ignore[no-untyped-call]
    return sums


def missing_extra(name: str, extra: str, error: ImportError) -> errors.UsageError:
    """Returns the error of a metric whose package is not installed.

    Args:
        name: of the metric.
        extra: of our package, which brings it.
        error: what importing it gave.
    """
    return errors.UsageError(
        f"{name}: needs a package that is not installed ({error}). "
        f"Install it with: pip install 'nmt-toolkit[{extra}]'"
    )
