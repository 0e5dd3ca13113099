"""What `nmt translate` reads and writes: lines to requests, outcomes to lines.

N lines in are N lines out, whatever is wrong with some of them.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from nmt import errors
from nmt.cli import engines
from nmt.inference import alignments, json_lines, outcomes, requests
from nmt.runtime import files, lines
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
        self, outcome: outcomes.Outcome, number: int, fields: Fields, *, with_scores: bool
    ) -> list[str]:
        """Returns the lines that answer line `number`, counted from 0."""


class Text:
    """The translation, and behind tabs what else was asked for."""

    def read(self, line: str, default: requests.Request) -> tuple[Fields, requests.Request]:
        """Takes the line as the source; see `Format.read`."""
        return {}, _with_text(default, line)

    def write(
        self, outcome: outcomes.Outcome, number: int, fields: Fields, *, with_scores: bool
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
        self, outcome: outcomes.Outcome, number: int, fields: Fields, *, with_scores: bool
    ) -> list[str]:
        """Returns a line for each translation; see `Format.write`."""
        written = []
        for found in outcome.translations:
            features = f"logprob={found.log_probability:.6f}"
            if found.utility is not None:
                features += f" utility={found.utility:.6f}"
            if found.token_scores is not None:
                scores = " ".join(f"{score:.6f}" for score in found.token_scores)
                features += f" token_scores= {scores}"
            # What reads the line would take it for the end of the text.
            text = re.sub(r"\|{3,}", lambda signs: " ".join(signs[0]), found.text)
            parts = [str(number), text, features, f"{found.score:.6f}"]
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
        self, outcome: outcomes.Outcome, number: int, fields: Fields, *, with_scores: bool
    ) -> list[str]:
        """Returns one line; see `Format.write`. A blank line answers a blank line."""
        if not fields and outcome.error is None:
            return [""]
        answer = json_lines.object_of(outcome, fields)
        return [json.dumps(answer, ensure_ascii=False, allow_nan=False)]


FORMATS: dict[str, Format] = {"text": Text(), "moses": Moses(), "jsonl": JsonLines()}


# A line, and the phrases that its line in the file of --constraints has. It goes through JSON.
Item = list[str | list[str]]

# The lines that answer an item, and what is wrong with it, if anything is. It goes through JSON.
Answer = tuple[list[str], str | None]


class Answerer:
    """Answers lines, in whichever process they are answered.

    Attributes:
        machine: what translates.
    """

    def __init__(
        self,
        machine: engines.Machine,
        default: requests.Request,
        style: Format,
        *,
        with_scores: bool = False,
        glossary: glossaries.Glossary | None = None,
    ) -> None:
        """Takes the parts.

        Args:
            machine: what translates.
            default: what is asked of a line of which nothing else is said.
            style: of the lines.
            with_scores: whether text has scores.
            glossary: terms that make constraints where they occur.
        """
        self.machine = machine
        self._default = default
        self._style = style
        self._with_scores = with_scores
        self._glossary = glossary

    def answer(self, items: Sequence[Item], numbers: Sequence[int]) -> list[Answer]:
        """Returns the answers to these items.

        Args:
            items: as `with_constraints` yields them.
            numbers: of their lines in the input, from 0.
        """
        read = [self._read(str(line), phrases) for line, phrases in items]
        good = [request for _, request, _ in read if request is not None]
        found = iter(self.machine.answer(good))
        answers = []
        for number, (fields, request, message) in zip(numbers, read, strict=True):
            outcome = outcomes.Outcome([], message) if request is None else next(found)
            answers.append((self._written(outcome, number, fields), outcome.error))
        return answers

    def _read(
        self, line: str, phrases: Sequence[str]
    ) -> tuple[Fields, requests.Request | None, str | None]:
        """Returns the fields, and the request or an error."""
        fields: Fields = {}
        wanted = tuple(phrases)
        try:
            fields, request = self._style.read(line, self._default)
            if self._glossary is not None:
                # Terms that are cut off are not translated, so they cannot be wanted.
                wanted += self._glossary.targets(self.machine.readable(request))
        except _LineError as error:
            return error.fields, None, str(error)
        except errors.NMTError as error:
            return fields, None, str(error)
        if wanted:
            request = dataclasses.replace(request, constraints=request.constraints + wanted)
        return fields, request, None

    def _written(self, outcome: outcomes.Outcome, number: int, fields: Fields) -> list[str]:
        if outcome.error is not None and not isinstance(self._style, JsonLines):
            # Nothing but a blank line can stand for it there.
            missing = [outcomes.missing(self._default)] * self._default.num_best
            outcome = outcomes.Outcome(missing)
        return self._style.write(outcome, number, fields, with_scores=self._with_scores)


class Answers:
    """Writes answers in their order, and says which lines could not be translated.

    Attributes:
        num_errors: those so far.
    """

    def __init__(self, writer: lines.LineWriter) -> None:
        """Takes where the lines go."""
        self.num_errors = 0
        self._num_lines = 0
        self._writer = writer

    def write(self, answers: Sequence[Answer]) -> None:
        """Writes what comes next."""
        for _, message in answers:
            self._num_lines += 1
            if message is not None:
                self.num_errors += 1
                logger.warning("line %d: %s", self._num_lines, message)
        self._writer.write(line for written, _ in answers for line in written)


def with_constraints(
    chunks: Iterator[list[str]], phrases: Iterator[str] | None, place: str
) -> Iterator[list[Item]]:
    """Yields each chunk of lines with the phrases that have to appear in their translations.

    Args:
        chunks: lines of the input.
        phrases: a line for each of them, with tabs between phrases; None for no phrases at all.
        place: where they come from, for messages.

    Raises:
        errors.DataError: there are more or fewer lines of phrases than of input.
    """
    num_lines = 0
    for chunk in chunks:
        items: list[Item] = []
        for line in chunk:
            own = "" if phrases is None else next(phrases, None)
            if own is None:
                raise errors.DataError(
                    f"{place}: has fewer lines than the input. Each input line wants one, which "
                    "may be blank."
                )
            items.append([line, [phrase for phrase in own.split("\t") if phrase.strip()]])
        num_lines += len(chunk)
        yield items
    if phrases is not None and next(phrases, None) is not None:
        raise errors.DataError(
            f"{place}: has more lines than the input ({num_lines}). "
            "Each input line wants one, which may be blank."
        )


def check_lengths(source: str, phrases: str) -> None:
    """Refuses a file of phrases of another length than the input before anything is translated.

    What can be read only once, such as a named pipe, is left to `with_constraints`.

    Raises:
        errors.DataError: one has more lines.
    """
    counts = files.line_counts((source, phrases))
    if counts is None:
        return
    wanted, given = counts
    if wanted != given:
        relation = "more" if given > wanted else "fewer"
        raise errors.DataError(
            f"{phrases}: has {relation} lines than the input ({wanted}). "
            "Each input line wants one, which may be blank."
        )


class _LineError(errors.DataError):
    """An object that cannot be used, but whose unknown fields are handed back."""

    def __init__(self, message: str, fields: Fields) -> None:
        super().__init__(message)
        self.fields = fields


def _with_text(default: requests.Request, text: str) -> requests.Request:
    return dataclasses.replace(default, text=text)
