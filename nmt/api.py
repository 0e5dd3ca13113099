"""The Python face of the toolkit; what stands here stays.

from nmt import api

model = api.load("runs/demo")
model.translate(["Hello."])                    # ["Hallo."]
model.translate_nbest(["Hello."], 3)           # [[Translation(text, score), ...]]
model.score(["Hello."], ["Hallo."])            # [log-probability]
api.evaluate(["Hallo."], [["Hallo."]])         # [Score of BLEU, Score of chrF]
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.config import loading as config_loading
from nmt.evaluation import metrics as evaluation
from nmt.evaluation import significance
from nmt.inference import json_lines, loading, outcomes, requests, scorer, translator


@dataclasses.dataclass(frozen=True)
class Translation:
    """One translation.

    Attributes:
        text: the translation.
        score: log-probability over the length penalty; higher is better.
    """

    text: str
    score: float


class Model:
    """A model folder in memory; made by `load`. Calls do not disturb each other."""

    def __init__(self, loaded: loading.Loaded) -> None:
        """Takes a loaded model."""
        self._loaded = loaded

    def translate(
        self, lines: Sequence[str], *, tgt_lang: str | None = None, **decoding: float | bool | str
    ) -> list[str]:
        """Returns the best translation of each line, in order; a blank line stays blank.

        Args:
            lines: source text without line ends.
            tgt_lang: target language, of a model that was trained with tags; None for its only one.
            **decoding: any key of the configuration's `decoding` section but `precision`, such as
                `beam_size=1`.

        Raises:
            nmt.errors.UsageError: a setting is unknown or out of range.
            TypeError: `lines` is one string.
        """
        _check_lines(lines)
        machine = self._translator(1, tgt_lang, decoding, with_scores=False)
        return [found[0].text for found in machine.translate(lines)]

    def translate_nbest(
        self,
        lines: Sequence[str],
        num_best: int,
        *,
        tgt_lang: str | None = None,
        **decoding: float | bool | str,
    ) -> list[list[Translation]]:
        """Returns the `num_best` best translations of each line, best first.

        Args:
            lines: source text without line ends.
            num_best: at most the beam size.
            tgt_lang: as for `translate`.
            **decoding: as for `translate`.

        Raises:
            nmt.errors.UsageError: a setting is unknown or out of range.
            TypeError: `lines` is one string.
        """
        _check_lines(lines)
        machine = self._translator(num_best, tgt_lang, decoding)
        return [
            [Translation(one.text, one.score) for one in found]
            for found in machine.translate(lines)
        ]

    def translate_requests(
        self, objects: Sequence[Mapping[str, Any]], **decoding: float | bool | str
    ) -> list[dict[str, Any]]:
        """Answers objects, as `nmt translate --format jsonl` does.

        Args:
            objects: each with `text`, and maybe `tgt_lang`, `target_prefix`, `constraints`, `avoid`,
                `nbest` and decoding options of its own; other fields are passed through.
            **decoding: as for `translate`, where an object says nothing.

        Returns:
            for each object one with `translation`, `score` and what was asked for besides, or `error`
            where it asks for something impossible, which harms no other.

        Raises:
            nmt.errors.UsageError: a setting in `decoding` is unknown or out of range.
        """
        machine = self._translator(1, None, decoding)
        read: list[requests.Request | str] = []
        for fields in objects:
            try:
                read.append(json_lines.request_of(fields, machine.default))
            except errors.NMTError as error:
                read.append(str(error))
        found = iter(machine.answer([one for one in read if isinstance(one, requests.Request)]))
        return [
            json_lines.object_of(
                outcomes.Outcome([], one) if isinstance(one, str) else next(found), fields
            )
            for one, fields in zip(read, objects, strict=True)
        ]

    def score(
        self, src_lines: Sequence[str], tgt_lines: Sequence[str], *, tgt_lang: str | None = None
    ) -> list[float]:
        """Returns the log-probability of each target line, given its source line.

        Args:
            src_lines: source text.
            tgt_lines: target text, as many lines.
            tgt_lang: as for `translate`.

        Raises:
            ValueError: the numbers of lines differ.
            TypeError: one of them is one string.
        """
        _check_lines(src_lines)
        _check_lines(tgt_lines)
        if len(src_lines) != len(tgt_lines):
            raise ValueError(f"{len(src_lines)} source lines, but {len(tgt_lines)} target lines")
        loaded = self._loaded
        machine = scorer.Scorer(
            loaded.model,
            loaded.texts.towards(tgt_lang),
            loaded.config.decoding,
            loaded.arithmetic,
        )
        return [pair.log_probability for pair in machine.score(src_lines, tgt_lines)]

    def _translator(
        self,
        num_best: int,
        tgt_lang: str | None,
        decoding: dict[str, float | bool | str],
        *,
        with_scores: bool = True,
    ) -> translator.Translator:
        loaded = self._loaded
        if "precision" in decoding:
            raise errors.UsageError(
                "precision: belongs to the model in memory. Give it to `load` instead."
            )
        settings = config_loading.apply_decoding_flags(loaded.config.decoding, decoding)
        return translator.Translator(
            loaded.model,
            loaded.texts.towards(tgt_lang),
            settings,
            loaded.arithmetic,
            num_best=num_best,
            shortlist=loaded.shortlist,
            with_scores=with_scores,
        )


def load(folder: str | Path, *, device: str = "auto", precision: str | None = None) -> Model:
    """Loads a model folder that `nmt train` wrote.

    Args:
        folder: the run folder.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `auto`, `fp32`, `bf16`, `int8`, `fp16` or `fp64`; None takes that of the
            configuration.

    Raises:
        nmt.errors.ModelError: a file is missing, torn or altered.
    """
    return Model(loading.load(Path(folder), device=device, precision=precision))


def evaluate(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = ("bleu", "chrf"),
    *,
    lowercase: bool = False,
    tokenize: str = "13a",
    confidence: bool = False,
) -> list[evaluation.Score]:
    """Returns the scores of translations, as `nmt evaluate --hyp` prints them; no model is needed.

    Args:
        hypotheses: translations, a line each.
        references: one or more translations of the corpus, as many lines each.
        metrics: names, such as `bleu`, `chrf++`, `ter` and `wer`; `nmt evaluate --help` has all. `comet`,
            which wants sources and a model, is of the command alone.
        lowercase: whether to ignore case.
        tokenize: sacreBLEU's tokenizer for BLEU.
        confidence: whether scores get a `mean` and the half width of their 95 % `interval`.

    Raises:
        nmt.errors.DataError: the numbers of lines differ, or there is none.
        nmt.errors.UsageError: there is no such metric, or it wants a package that is not installed.
        TypeError: one string was given for a list of lines.
    """
    for lines in (hypotheses, *references):
        _check_lines(lines)
    number = significance.NUM_RESAMPLES if confidence else None
    settings = evaluation.MetricSettings(lowercase=lowercase, tokenize=tokenize)
    return [
        evaluation.score(name, hypotheses, references, settings, num_resamples=number)
        for name in metrics
    ]


def _check_lines(lines: Sequence[str]) -> None:
    """Refuses a single string, which would be taken for a sequence of one-letter lines."""
    if isinstance(lines, str):
        raise TypeError(f"wants a list of lines, not one string (given: {lines[:40]!r})")
