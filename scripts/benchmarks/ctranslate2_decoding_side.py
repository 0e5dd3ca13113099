"""CTranslate2 on the weights that nmt exported, through the engine of `nmt translate`."""

import platform
from pathlib import Path
from typing import Any

import ctranslate2
import torch

from benchmarks import nmt_decoding_side
from nmt.interop import ctranslate2_engine, ctranslate2_folder


class Ctranslate2Side:
    """Lines in, lines out; CTranslate2 sorts lines and cuts them into batches itself."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])  # which the engine takes over
        path = Path(job["export"])
        note = ctranslate2_folder.read(path)
        changes = {"beam_size": job["beam_size"], "length_penalty": 0.0}
        decoding = note.decoding_config().model_copy(update=changes)
        self._lines = nmt_decoding_side.data(job)["lines"]
        self._quantization = note.quantization
        self._engine = ctranslate2_engine.load(path, decoding, device="cpu")

    def describe(self) -> dict[str, Any]:
        return {
            "versions": {
                "python": platform.python_version(),
                "ctranslate2": ctranslate2.__version__,
            },
            "quantization": self._quantization,
        }

    def turn(self, number: int) -> dict[str, Any]:
        """Translates all lines in batches of `number` sentences."""
        self._engine.set_batch_sentences(number)
        found = [best[0] for best in self._engine.translate(self._lines)]
        return {
            "texts": [translation.text for translation in found],
            "lengths": nmt_decoding_side.lengths(self._lines, found),
        }


def build(job: dict[str, Any]) -> Ctranslate2Side:
    return Ctranslate2Side(job)
