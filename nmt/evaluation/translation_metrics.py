"""BLEU, chrF, chrF++ and TER: sacreBLEU computes them, and its signature says how."""

import abc
import json
from collections.abc import Collection, Sequence
from typing import Any

from nmt import errors
from nmt.evaluation import metric


class SacrebleuMetric(metric.Metric):
    """A metric of sacreBLEU."""

    def __init__(self, settings: metric.MetricSettings) -> None:
        """Takes how text is compared."""
        super().__init__(settings)
        self._inner = self._build()

    @abc.abstractmethod
    def _build(self) -> Any:
        """Returns sacreBLEU's object."""

    def rows(
        self,
        hypotheses: Sequence[str],
        references: Sequence[Sequence[str]],
        sources: Sequence[str] | None = None,
    ) -> list[metric.Row]:
        """Returns sacreBLEU's statistics of each line."""
        found: list[metric.Row] = self._inner._extract_corpus_statistics(
            list(hypotheses), [list(lines) for lines in references]
        )
        return found

    def figure(self, sums: metric.Row) -> float:
        """Returns sacreBLEU's figure."""
        return float(self._inner._compute_score_from_stats(sums).score)

    def details(self, sums: metric.Row) -> str:
        """Returns what sacreBLEU prints behind the figure."""
        result = self._inner._compute_score_from_stats(sums)
        # It wants fields in the signature that it puts into its JSON.
        text = json.loads(result.format(signature="a:b", is_json=True))
        return str(text.get("verbose_score", ""))

    def signature(self, num_refs: int, resampling: dict[str, str]) -> str:
        """Returns sacreBLEU's signature."""
        self._inner.num_refs = num_refs
        found = self._inner.get_signature()
        for name, value in resampling.items():
            found.update(name, value)
        return str(found)


class Bleu(SacrebleuMetric):
    """BLEU."""

    label = "BLEU"

    def _build(self) -> Any:
        # Imported late: it takes a tenth of a second that other commands need not wait.
        from sacrebleu.metrics.bleu import BLEU

        settings = self.settings
        _check_tokenizer(settings.tokenize, BLEU.TOKENIZERS)
        try:
            inner = BLEU(lowercase=settings.lowercase, tokenize=settings.tokenize, force=True)
        except OSError as error:
            raise errors.UsageError(
                f"--tokenize {settings.tokenize}: has to be downloaded by sacreBLEU, which failed "
                f"({' '.join(str(error).split())}). Connect to the network once, or take another."
            ) from error
        except (ImportError, RuntimeError) as error:
            raise errors.UsageError(
                f"--tokenize {settings.tokenize}: needs a package that is not installed "
                f"({' '.join(str(error).split())})."
            ) from error
        return inner

    def line_figure(self, row: metric.Row) -> float:
        """Returns BLEU of one line: without the orders of which it has no n-gram."""
        inner = self._inner
        whole = inner.effective_order
        inner.effective_order = True
        try:
            return self.figure(row)
        finally:
            inner.effective_order = whole


class Chrf(SacrebleuMetric):
    """chrF of character n-grams up to 6."""

    label = "chrF2"
    word_order = 0

    def _build(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(lowercase=self.settings.lowercase, word_order=self.word_order)


class ChrfPlusPlus(Chrf):
    """chrF with word n-grams up to 2 besides."""

    label = "chrF2++"
    word_order = 2


class Ter(SacrebleuMetric):
    """Translation edit rate."""

    label = "TER"
    is_error = True

    def _build(self) -> Any:
        from sacrebleu.metrics.ter import TER

        # It ignores case in any case: that is sacreBLEU's default, and what its command prints.
        return TER()


def _check_tokenizer(name: str, known: Collection[str]) -> None:
    if name not in known:
        raise errors.UsageError(
            f"--tokenize: unknown tokenizer (given: {name}). Known: {', '.join(sorted(known))}."
            f"{errors.did_you_mean(name, known)}"
        )
