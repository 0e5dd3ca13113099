"""Metrics with their signatures: sacreBLEU's figures, and the share of exact matches.

A score never travels without the settings that made it (Post 2018, "A Call for Clarity in Reporting
BLEU Scores").
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

from nmt import errors

METRICS = ("bleu", "chrf", "ter", "exact_match")
PERCENT = 100.0


@dataclasses.dataclass(frozen=True)
class MetricSettings:
    """How text is compared.

    Attributes:
        lowercase: compare without regard to case.
        tokenize: sacreBLEU's tokenizer for BLEU.
    """

    lowercase: bool = False
    tokenize: str = "13a"


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure and how it was made.

    Attributes:
        name: of the metric, as it is printed.
        value: the figure, in percent.
        signature: sacreBLEU's; empty for exact matches.
        details: what sacreBLEU prints behind the figure.
        fields: the signature by name.
    """

    name: str
    value: float
    signature: str
    details: str
    fields: dict[str, str]

    def text(self, width: int = 2) -> str:
        """Returns the line that is printed: `BLEU|nrefs:1|... = 38.12 ...`.

        Args:
            width: decimals of the figure.
        """
        if not self.signature:
            return f"{self.name}: {self.value:.1f} %"
        return f"{self.name}|{self.signature} = {self.value:.{width}f} {self.details}".rstrip()

    def as_json(self, width: int = 2) -> dict[str, Any]:
        """Returns the figure under sacreBLEU's JSON keys.

        Args:
            width: decimals of the figure.
        """
        found: dict[str, Any] = {"name": self.name, "score": round(self.value, width)}
        if self.signature:
            found["signature"] = self.signature
        if self.details:
            found["verbose_score"] = self.details
        return {**found, **self.fields}


def score(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: MetricSettings,
) -> Score:
    """Returns the score of a translation of a whole corpus.

    Args:
        name: one of `METRICS`.
        hypotheses: a line each.
        references: one or more translations of the corpus, as many lines each.
        settings: case and tokenizer.

    Raises:
        errors.DataError: line counts differ, or there is no line.
        errors.UsageError: the tokenizer is unknown or lacks its package.
    """
    for number, reference in enumerate(references, start=1):
        if len(reference) != len(hypotheses):
            raise errors.DataError(
                f"reference {number}: {len(reference)} lines, but {len(hypotheses)} translations. "
                "Each translation wants one line of each reference."
            )
    if not hypotheses:
        raise errors.DataError("evaluation: there is no line to score.")
    if name == "exact_match":
        return _exact_match(hypotheses, references, settings)
    return _sacrebleu_score(name, hypotheses, references, settings)


def _exact_match(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], settings: MetricSettings
) -> Score:
    matches = 0
    for hypothesis, *wanted in zip(hypotheses, *references, strict=True):
        if settings.lowercase:
            hypothesis, wanted = hypothesis.lower(), [line.lower() for line in wanted]
        matches += hypothesis in wanted
    fields = {"nrefs": str(len(references)), "case": "lc" if settings.lowercase else "mixed"}
    return Score("exact match", PERCENT * matches / len(hypotheses), "", "", fields)


def _sacrebleu_score(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: MetricSettings,
) -> Score:
    # Imported late: it takes a tenth of a second that other commands need not wait.
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    metric: Any
    if name == "bleu":
        _check_tokenizer(settings.tokenize, BLEU.TOKENIZERS)
        try:
            metric = BLEU(lowercase=settings.lowercase, tokenize=settings.tokenize, force=True)
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
    elif name == "chrf":
        metric = CHRF(lowercase=settings.lowercase)
    else:
        # TER ignores case in any case: that is sacreBLEU's default, and what its command prints.
        metric = TER()
    result = metric.corpus_score(list(hypotheses), [list(lines) for lines in references])
    signature = str(metric.get_signature())
    details = json.loads(result.format(signature=signature, is_json=True)).get("verbose_score", "")
    fields = dict(field.split(":", 1) for field in signature.split("|"))
    return Score(result.name, float(result.score), signature, details, fields)


def _check_tokenizer(name: str, known: Collection[str]) -> None:
    if name not in known:
        raise errors.UsageError(
            f"--tokenize: unknown tokenizer (given: {name}). Known: {', '.join(sorted(known))}."
            f"{errors.did_you_mean(name, known)}"
        )
