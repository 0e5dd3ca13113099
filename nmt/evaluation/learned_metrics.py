"""COMET: a model that was taught how people judge translations.

Its package brings torch and its models are downloaded, so both are left to the user: nothing is fetched
without being told to.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.evaluation import metric


class Comet(metric.OwnMetric):
    """COMET: mean over lines of what its model gives. Of several references the best one counts."""

    label = "COMET"
    decimals = 4

    def __init__(self, settings: metric.MetricSettings) -> None:
        """Takes the model.

        Raises:
            errors.UsageError: the package is not installed, no model is named, or it would have to be
                downloaded and may not be.
        """
        super().__init__(settings)
        if not settings.may_download:
            # Before the package is imported, which reads it then: the encoder comes from there.
            os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            import comet
        except ImportError as error:
            raise metric.missing_extra(self.label, "comet", error) from error
        name = settings.comet_model
        if name is None:
            raise errors.UsageError(
                "--comet-model: missing. COMET wants the file of a model, or a name with --download."
            )
        if not Path(name).is_file() and not settings.may_download:
            raise errors.UsageError(
                f"--comet-model: no such file (given: {name}). "
                "Give the file of a model, or --download to fetch the model of that name."
            )
        try:
            path = name if Path(name).is_file() else comet.download_model(name)
            self._model: Any = comet.load_from_checkpoint(path)
        except Exception as error:  # of its own, of torch, of the network: it has no class for them
            told = " ".join(str(error).split()) or type(error).__name__
            raise errors.UsageError(
                f"--comet-model: cannot be loaded (given: {name}): {told}"
            ) from error

    def fields(self) -> dict[str, str]:
        """Returns the settings for the signature."""
        name = str(self.settings.comet_model)
        if Path(name).exists():
            # Models are told apart by their folders: each file is called checkpoints/model.ckpt.
            name = "/".join(Path(name).resolve().parts[-3:])
        return {**super().fields(), "model": name.replace("|", "_")}

    def rows(
        self,
        hypotheses: Sequence[str],
        references: Sequence[Sequence[str]],
        sources: Sequence[str] | None = None,
    ) -> list[metric.Row]:
        """Returns the model's judgement of each line, and 1.

        Raises:
            errors.UsageError: there are no sources.
        """
        if sources is None:
            raise errors.UsageError("--metric comet: wants the sources. Give --src.")
        scores = []
        for lines in references:
            triples = [
                {
                    "src": self.cased(src),
                    "mt": self.cased(hypothesis),
                    "ref": self.cased(reference),
                }
                for src, hypothesis, reference in zip(sources, hypotheses, lines, strict=True)
            ]
            found = self._model.predict(triples, gpus=0, progress_bar=False)
            scores.append([float(one) for one in found.scores])
        return [[max(of_line), 1] for of_line in zip(*scores, strict=True)]

    def figure(self, sums: metric.Row) -> float:
        """Returns the mean, as the model gives it."""
        return float(sums[0]) / float(sums[1])
