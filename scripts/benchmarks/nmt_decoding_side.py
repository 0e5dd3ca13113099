"""nmt's own search, through the command line's parser, so that every flag of it can be measured."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from nmt.cli import parser, translate


class NmtSide:
    """Lines in, lines out, as `nmt translate` does it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._lines: list[str] = data(job)["lines"]
        self._size = 0
        self._prepare(job["batch_size"])

    def _prepare(self, size: int) -> None:
        """Makes the translator of a batch size, in the place of that of another one."""
        if size == self._size:
            return
        job = self._job
        # The old model goes first, so that there are never two.
        self._machine = None
        args = parser.parse(["translate", *flags(job, size)])
        self._machine = translate.build_translator(args)
        self._size = size

    def describe(self) -> dict[str, Any]:
        return {"versions": {"python": platform.python_version(), "torch": torch.__version__}}

    def turn(self, number: int) -> dict[str, Any]:
        """Translates all lines in batches of `number` sentences."""
        self._prepare(number)
        found = [best[0] for best in self._machine.translate(self._lines)]
        return {
            "texts": [translation.text for translation in found],
            "lengths": lengths(self._lines, found),
        }


def flags(job: dict[str, Any], size: int) -> list[str]:
    """Returns the flags of `nmt translate`; a side may name another model than the others have."""
    found = [] if "--model" in job["flags"] else ["--model", job["model"]]
    found += ["--beam-size", str(job["beam_size"]), "--length-penalty", "0"]
    return [*found, "--batch-size", str(size), "--threads", str(job["threads"]), *job["flags"]]


def data(job: dict[str, Any]) -> dict[str, Any]:
    """Returns what all sides of a group read; too much for a command line."""
    content: dict[str, Any] = json.loads(Path(job["data"]).read_text(encoding="ascii"))
    return content


def lengths(lines: list[str], found: list[Any]) -> list[int]:
    """Returns the tokens of each translation, EOS included; blank lines have none."""
    pairs = zip(lines, found, strict=True)
    return [len(translation.tokens) + 1 if line.strip() else 0 for line, translation in pairs]


def build(job: dict[str, Any]) -> NmtSide:
    return NmtSide(job)
