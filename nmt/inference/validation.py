"""How good the model under training is on the validation corpus."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence

from nmt import errors
from nmt.config import schema
from nmt.evaluation import metrics
from nmt.inference import scorer, translator
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.runtime import memory

logger = logging.getLogger(__name__)

# Sample translations that each validation shows.
NUM_SAMPLES = 3
SAMPLE_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        scores: `loss` (negative log-likelihood of a target token, in nats), `perplexity`, `bleu` and
            `chrf`.
    """

    scores: dict[str, float]


def decoding_of(config: schema.Config) -> schema.DecodingConfig:
    """Returns the settings of the searches of validation."""
    # Scores of drawn translations would say little of the model, and nobody reads what goes with them.
    return config.decoding.model_copy(
        update={
            "beam_size": config.training.validation_beam_size,
            "sample": False,
            "diversity_groups": 1,
            "alignments": False,
            "token_scores": False,
        }
    )


class Validator:
    """Translates and scores the validation corpus."""

    def __init__(
        self,
        src_lines: Sequence[str],
        tgt_lines: Sequence[str],
        texts: translator.Texts,
        decoding: schema.DecodingConfig,
        arithmetic: devices.Arithmetic,
        *,
        name: str = "",
    ) -> None:
        """Takes the corpus and how it is translated.

        Args:
            src_lines: sources.
            tgt_lines: references.
            texts: the tokenizers.
            decoding: the settings of validation (the beam of `training.validation_beam_size`).
            arithmetic: device and precision.
            name: of the corpus, for messages.
        """
        self._name = name
        self._src_lines = src_lines
        self._tgt_lines = tgt_lines
        self._texts = texts
        self._decoding = decoding
        self._arithmetic = arithmetic

    def validate(self, model: seq2seq.Seq2Seq) -> Validation:
        """Returns the scores of the model, and logs them with sample translations.

        Args:
            model: on the device, in evaluation mode.

        Raises:
            errors.TrainingError: a line does not fit into memory.
        """
        try:
            return self._validated(model)
        except errors.UsageError as error:  # of the translator, about a line
            raise self._too_large(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            if not memory.is_exhausted(error):
                raise
            raise self._too_large("a pair does not fit in memory.") from error

    def _too_large(self, what: str) -> errors.TrainingError:
        return errors.TrainingError(
            f"data.valid{self._name and f' ({self._name})'}: {what} The run is saved. To go on, lower "
            "decoding.max_src_tokens, which cuts long lines, or give it more memory."
        )

    def _validated(self, model: seq2seq.Seq2Seq) -> Validation:
        pair_scores = scorer.Scorer(model, self._texts, self._decoding, self._arithmetic).score(
            self._src_lines, self._tgt_lines
        )
        num_tokens = sum(pair.num_tokens for pair in pair_scores)
        loss = -sum(pair.log_probability for pair in pair_scores) / num_tokens
        found = translator.Translator(
            model, self._texts, self._decoding, self._arithmetic
        ).translate(self._src_lines)
        hypotheses = [translations[0].text for translations in found]
        settings = metrics.MetricSettings()
        bleu = metrics.score("bleu", hypotheses, [self._tgt_lines], settings).value
        chrf = metrics.score("chrf", hypotheses, [self._tgt_lines], settings).value
        perplexity = math.exp(min(loss, 100.0))
        logger.info(
            "validation: loss %.4f  ppl %.2f  BLEU %.2f  chrF %.2f", loss, perplexity, bleu, chrf
        )
        self._show_samples(hypotheses)
        return Validation({"loss": loss, "perplexity": perplexity, "bleu": bleu, "chrf": chrf})

    def _show_samples(self, hypotheses: Sequence[str]) -> None:
        step = max(len(hypotheses) // NUM_SAMPLES, 1)
        for index in range(0, len(hypotheses), step)[:NUM_SAMPLES]:
            logger.info("  source      %s", _shortened(self._src_lines[index]))
            logger.info("  reference   %s", _shortened(self._tgt_lines[index]))
            logger.info("  translation %s", _shortened(hypotheses[index]))


class Joint:
    """Validates on several corpora and takes the mean of their scores, so that each counts alike."""

    def __init__(self, validators: Mapping[str, Validator]) -> None:
        """Takes the validator of each corpus by its name, one at least."""
        self._validators = dict(validators)

    def validate(self, model: seq2seq.Seq2Seq) -> Validation:
        """Returns the mean of each score, and each score as `NAME:CORPUS`.

        Args:
            model: on the device, in evaluation mode.
        """
        found: dict[str, dict[str, float]] = {}
        for name, validator in self._validators.items():
            logger.info("%s:", name)
            found[name] = validator.validate(model).scores
        names = next(iter(found.values()))
        means = {name: sum(own[name] for own in found.values()) / len(found) for name in names}
        # Of losses, not of their exponentials.
        means["perplexity"] = math.exp(min(means["loss"], 100.0))
        single = {f"{name}:{own}": found[own][name] for own in found for name in names}
        logger.info(
            "mean of %d corpora: loss %.4f  ppl %.2f  BLEU %.2f  chrF %.2f",
            len(found),
            *(means[name] for name in ("loss", "perplexity", "bleu", "chrf")),
        )
        return Validation(means | single)


def _shortened(line: str) -> str:
    return line if len(line) <= SAMPLE_CHARACTERS else line[:SAMPLE_CHARACTERS] + " ..."
