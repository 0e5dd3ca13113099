"""A model folder becomes a CTranslate2 folder, which is compared with the model before it counts."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nmt import errors
from nmt.checkpoint import folder, manifests
from nmt.config import schema
from nmt.inference import loading, translator
from nmt.interop import ctranslate2_engine, ctranslate2_folder, ctranslate2_spec
from nmt.models import seq2seq

logger = logging.getLogger(__name__)

# Sinusoids are written for so many positions at least, so that later settings have room.
MIN_POSITIONS = 1024
# Share of lines that a float32 export has to translate alike; one line may differ in any case,
# since two translations can be equally likely but for the rounding of sums.
WANTED_SHARE = 0.98
# Coarser weights change many a line, but a share below this is worth a warning.
EXPECTED_SHARE = 0.5
SEARCHES = {"greedy": 1, "beam 5": 5}
# A limit that no line reaches: CTranslate2 has none of this kind.
NO_RATIO = 1e6


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How often two engines say the same.

    Attributes:
        num_alike: lines that both translate alike.
        num_lines: lines that were compared: all but those that CTranslate2 did not get to the end of
            within `max_length`, where the two mean different things.
    """

    num_alike: int
    num_lines: int

    @property
    def share(self) -> float:
        """Share of lines translated alike, 0 if there were none to compare."""
        return self.num_alike / self.num_lines if self.num_lines else 0.0


@dataclasses.dataclass(frozen=True)
class Result:
    """What an export came to.

    Attributes:
        agreements: by search.
        left_out: settings of the configuration that the export begins without.
    """

    agreements: Mapping[str, "Agreement"]
    left_out: Mapping[str, Any]


def export(run_dir: Path, output: Path, quantization: str, lines: Sequence[str]) -> Result:
    """Writes a model as a CTranslate2 folder, if it translates like the model.

    Args:
        run_dir: the model folder.
        output: the folder to be; new or empty.
        quantization: how weights are stored, in CTranslate2's words.
        lines: source lines to compare both engines on.

    Raises:
        errors.UsageError: CTranslate2 cannot represent the model, or is not installed.
        errors.ModelError: the model folder cannot be used, or the export translates differently.
        errors.FileError: the folder cannot be written.
    """
    ctranslate2_folder.check_free(output)
    package = ctranslate2_spec.package()
    manifest = folder.verify(run_dir)
    loaded = loading.load(run_dir, device="cpu", precision="fp32")
    if folder.verify(run_dir).files != manifest.files:
        raise errors.ModelError(
            f"{run_dir}: the model changed while it was read. Try again, or export a copy of the folder."
        )
    model, config = loaded.model, loaded.config
    vocabs = (loaded.texts.src.vocab, loaded.texts.tgt.vocab)
    ctranslate2_spec.check(config.model, *vocabs)
    assert isinstance(model, seq2seq.Seq2Seq), "one folder is one model"
    decoding, positions, rows = _settings(config)
    spec = ctranslate2_spec.build(model, config.model, vocabs, rows)
    with ctranslate2_folder.unfinished(output, run_dir) as path:
        try:
            spec.validate()
            spec.optimize(quantization=quantization)
            spec.save(str(path))
        except OSError as error:
            raise errors.FileError(f"{output}: cannot be written ({error.strerror}).") from error
        note = ctranslate2_folder.Note(
            quantization=quantization,
            positions=positions,
            decoding={key: getattr(decoding, key) for key in ctranslate2_folder.DECODING_KEYS},
            made_from={
                "model": run_dir.absolute().name,
                "update": manifest.update,
                "weights_sha256": manifest.files[folder.WEIGHTS].sha256,
            },
            versions={**manifests.versions(), "ctranslate2": package.__version__},
            agreement={},
        )
        agreements = compare(loaded, path, decoding, positions, lines)
        shares = {name: agreement.share for name, agreement in agreements.items()}
        _insist_on_lines(agreements, output)
        if quantization == "float32":
            _insist(agreements, output)
        elif min(shares.values()) < EXPECTED_SHARE:
            logger.warning("%s: most lines are translated differently in %s.", output, quantization)
        ctranslate2_folder.write_note(path, dataclasses.replace(note, agreement=shares))
    return Result(agreements, _left_out(config.decoding))


def _settings(
    config: schema.Config,
) -> tuple[schema.DecodingConfig, tuple[int | None, int | None], tuple[int, int]]:
    """Returns the search of the export, its limits, and the rows of the tables of positions."""
    decoding = config.decoding
    wanted = (decoding.max_src_tokens, decoding.max_length)
    positions: list[int | None] = []
    rows: list[int] = []
    for options, count in zip((config.model.encoder, config.model.decoder), wanted, strict=True):
        rows.append(max(count, MIN_POSITIONS))
        # The options were checked to be those of a Transformer.
        kind = vars(options)["positions"]
        limits = {"rotary": None, "learned": vars(options)["max_positions"], "sinusoidal": rows[-1]}
        positions.append(limits[kind])
    src, tgt = positions
    # What CTranslate2 has no setting for is as where nothing is said.
    values = {key: getattr(decoding, key) for key in ctranslate2_folder.DECODING_KEYS}
    values["length_penalty"] = 0.0
    if tgt is not None:
        values["max_length"] = min(decoding.max_length, tgt)
    return schema.DecodingConfig.model_validate(values), (src, tgt), (rows[0], rows[1])


def _left_out(decoding: schema.DecodingConfig) -> dict[str, Any]:
    """Returns the settings that make translations what they are, and that CTranslate2 lacks."""
    left_out = ctranslate2_folder.unknown_settings(decoding)
    if decoding.length_penalty:
        left_out["length_penalty"] = decoding.length_penalty
    return left_out


def compare(
    loaded: loading.Loaded,
    path: Path,
    decoding: schema.DecodingConfig,
    positions: tuple[int | None, int | None],
    lines: Sequence[str],
) -> dict[str, Agreement]:
    """Returns how often both engines translate alike, by search.

    Args:
        loaded: the model, in fp32 on the CPU.
        path: the folder that CTranslate2 reads.
        decoding: limits and batch size.
        positions: how many positions of source and target can be told apart.
        lines: source lines, at least one.
    """
    found = {}
    for name, beam_size in SEARCHES.items():
        # Settings that mean the same to both.
        same = decoding.model_copy(
            update={
                "beam_size": beam_size,
                "length_penalty": 0.0,
                "max_length_ratio": NO_RATIO,
                "patience": 1.0,
                "exact_stop": False,
            }
        )
        theirs = ctranslate2_engine.Engine(path, same, positions, device=torch.device("cpu"))
        ours = translator.Translator(loaded.model, loaded.texts, same, loaded.arithmetic)
        limit = decoding.max_length - 1
        pairs = [
            (own[0].text, other[0].text)
            for own, other in zip(ours.translate(lines), theirs.translate(lines), strict=True)
            if len(other[0].tokens) < limit
        ]
        found[name] = Agreement(sum(own == other for own, other in pairs), len(pairs))
    return found


def _insist_on_lines(agreements: Mapping[str, Agreement], output: Path) -> None:
    for name, found in agreements.items():
        if found.num_lines == 0:
            raise errors.ModelError(
                f"{output}: was not written, since no translation ends within max_length ({name}), "
                "so that nothing could be compared. Train the model further."
            )


def _insist(agreements: Mapping[str, Agreement], output: Path) -> None:
    for name, found in agreements.items():
        num_different = found.num_lines - found.num_alike
        if found.share < WANTED_SHARE and num_different > 1:
            raise errors.ModelError(
                f"{output}: was not written, since CTranslate2 translates {num_different} of "
                f"{found.num_lines} lines differently ({name}; at most {1.0 - WANTED_SHARE:.0%} may "
                "be, in float32). Check it on other lines with --check, or report this as a fault."
            )
