"""What `nmt translate` reads and writes: lines to requests, outcomes to lines.

N lines in are N lines out, whatever is wrong with some of them.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from nmt import errors
from nmt.cli import engines
from nmt.inference import alignments, json_lines, requests, translator
from nmt.text import glossary as glossaries

logger = logging.getLogger(__name__)

Fields = dict[str, Any]


class Format(Protocol):
    """A way to read and write a line."""

    def read(self, line: str, default: requests.Request) -> tuple[Fields, requests.Request]:
        """Returns the fields of a line, as far as it has any, and what it asks for.

        Raises:
            errors.NMTError: it cannot be read.
        """

    def write(
        self, outcome: translator.Outcome, number: int, fields: Fields, *, with_scores: bool
    ) -> list[str]:
        """Returns the lines that answer line `number`, counted from 0."""


class Text:
    """The translation, and behind tabs what else was asked for."""

    def read(self, line: str, default: requests.Request) -> tuple[Fields, requests.Request]:
        """Takes the line as the source; see `Format.read`."""
        return {}, _with_text(default, line)

    def write(
        self, outcome: translator.Outcome, number: int, fields: Fields, *, with_scores: bool
    ) -> list[str]:
        """Returns a line for each translation; see `Format.write`."""
        written = []
        for found in outcome.translations:
            columns = []
            if with_scores:
                columns.append(f"{found.score:.6f}")
            if found.token_scores is not None:
                columns.append(" ".join(f"{score:.6f}" for score in found.token_scores))
            if found.alignment is not None:
                columns.append(alignments.pharaoh(found.alignment))
            if columns:
                columns.insert(0, found.text.replace("\t", " "))
            written.append("\t".join(columns) if columns else found.text)
        return written


class Moses:
    """`number ||| text ||| features ||| score`, and the alignment behind that, if it is wanted."""

    def read(self, line: str, default: requests.Request) -> tuple[Fields, requests.Request]:
        """Takes the line as the source; see `Format.read`."""
        return {}, _with_text(default, line)

    def write(
        self, outcome: translator.Outcome, number: int, fields: Fields, *, with_scores: bool
    ) -> list[str]:
        """Returns a line for each translation; see `Format.write`."""
        written = []
        for found in outcome.translations:
            features = f"logprob={found.log_probability:.6f}"
            if found.token_scores is not None:
                scores = " ".join(f"{score:.6f}" for score in found.token_scores)
                features += f" token_scores= {scores}"
            parts = [str(number), found.text, features, f"{found.score:.6f}"]
            if found.alignment is not None:
                parts.append(alignments.pharaoh(found.alignment))
            written.append(" ||| ".join(parts))
        return written


class JsonLines:
    """A JSON object for a JSON object; see `nmt.inference.json_lines`."""

    def read(self, line: str, default: requests.Request) -> tuple[Fields, requests.Request]:
        """Reads an object; see `Format.read`."""
        if not line.strip():
            return {}, _with_text(default, "")
        fields = json_lines.parse_line(line)
        try:
            return fields, json_lines.request_of(fields, default)
        except errors.NMTError as error:
            raise _LineError(str(error), fields) from error

    def write(
        self, outcome: translator.Outcome, number: int, fields: Fields, *, with_scores: bool
    ) -> list[str]:
        """Returns one line; see `Format.write`. A blank line answers a blank line."""
        if not fields and outcome.error is None:
            return [""]
        answer = json_lines.object_of(outcome, fields)
        return [json.dumps(answer, ensure_ascii=False, allow_nan=False)]


FORMATS: dict[str, Format] = {"text": Text(), "moses": Moses(), "jsonl": JsonLines()}


class Answerer:
    """Answers the lines of one input in order.

    Attributes:
        machine: what translates.
        num_errors: lines so far that could not be translated; stderr has said which.
    """

    def __init__(
        self,
        machine: engines.Machine,
        default: requests.Request,
        style: Format,
        *,
        with_scores: bool = False,
        glossary: glossaries.Glossary | None = None,
        constraints: Iterator[str] | None = None,
        constraints_place: str = "",
    ) -> None:
        """Takes the parts.

        Args:
            machine: what translates.
            default: what is asked of a line of which nothing else is said.
            style: of the lines.
            with_scores: whether text has scores.
            glossary: terms that make constraints where they occur.
            constraints: for each line its phrases, between tabs.
            constraints_place: where they come from, for messages.
        """
        self.machine = machine
        self.num_errors = 0
        self._default = default
        self._style = style
        self._with_scores = with_scores
        self._glossary = glossary
        self._constraints = constraints
        self._constraints_place = constraints_place
        self._num_lines = 0

    def answer(self, lines: Sequence[str]) -> list[str]:
        """Returns the lines that answer these.

        Raises:
            errors.DataError: there are fewer lines of constraints.
        """
        read = [self._read(line) for line in lines]
        good = [request for _, request, _ in read if request is not None]
        found = iter(self.machine.answer(good))
        written: list[str] = []
        for fields, request, message in read:
            outcome = translator.Outcome([], message) if request is None else next(found)
            written += self._write(outcome, fields)
            self._num_lines += 1
        return written

    def finish(self) -> None:
        """Checks that nothing is left over.

        Raises:
            errors.DataError: there are more lines of constraints than of input.
        """
        if self._constraints is not None and next(self._constraints, None) is not None:
            raise errors.DataError(
                f"{self._constraints_place}: has more lines than the input ({self._num_lines}). "
                "Each input line wants one, which may be blank."
            )

    def _read(self, line: str) -> tuple[Fields, requests.Request | None, str | None]:
        """Returns the fields, and the request or an error."""
        phrases = () if self._constraints is None else self._next_constraints()
        try:
            fields, request = self._style.read(line, self._default)
        except _LineError as error:
            return error.fields, None, str(error)
        except errors.NMTError as error:
            return {}, None, str(error)
        if self._glossary is not None:
            phrases += self._glossary.targets(request.text)
        if phrases:
            request = dataclasses.replace(request, constraints=request.constraints + phrases)
        return fields, request, None

    def _next_constraints(self) -> tuple[str, ...]:
        assert self._constraints is not None, "somebody asks for constraints"
        line = next(self._constraints, None)
        if line is None:
            raise errors.DataError(
                f"{self._constraints_place}: has fewer lines than the input. Each input line wants "
                "one, which may be blank."
            )
        return tuple(phrase for phrase in line.split("\t") if phrase.strip())

    def _write(self, outcome: translator.Outcome, fields: Fields) -> list[str]:
        if outcome.error is not None:
            self.num_errors += 1
            logger.warning("line %d: %s", self._num_lines + 1, outcome.error)
            if not isinstance(self._style, JsonLines):
                # Nothing but a blank line can stand for it there.
                blank = [translator.Translation("", score=float("-inf"))] * self._default.num_best
                outcome = translator.Outcome(blank)
        return self._style.write(outcome, self._num_lines, fields, with_scores=self._with_scores)


class _LineError(errors.DataError):
    """An object that cannot be used, but whose unknown fields are handed back."""

    def __init__(self, message: str, fields: Fields) -> None:
        super().__init__(message)
        self.fields = fields


def _with_text(default: requests.Request, text: str) -> requests.Request:
    return dataclasses.replace(default, text=text)
