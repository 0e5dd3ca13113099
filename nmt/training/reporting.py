"""What a run shows while it goes on: a progress bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import logging
import math
import time
from typing import Any, TextIO

import tqdm
from tqdm.contrib import logging as tqdm_logging

logger = logging.getLogger(__name__)

# Without a terminal, lines closer together than this would only fill the log.
SECONDS_BETWEEN_LINES = 10.0


def writable(line: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of metrics with null for numbers that are not finite or not known: JSON has none."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }


class Reporter:
    """Shows loss, perplexity, speed and time left."""

    def __init__(self, stream: TextIO, total: int | None, done: int, *, quiet: bool) -> None:
        """Opens the bar, if the stream is a terminal.

        Args:
            stream: where to show it (stderr).
            total: updates of the whole run, or None if unknown.
            done: updates done before.
            quiet: show neither bar nor lines.
        """
        self._bar = None
        self._quiet = quiet
        self._last_line = float("-inf")
        self._open = contextlib.ExitStack()
        if stream.isatty() and not quiet:
            self._bar = tqdm.tqdm(
                total=total, initial=done, file=stream, unit="upd", dynamic_ncols=True
            )
            # Messages appear above the bar instead of in the middle of it.
            redirected = tqdm_logging.logging_redirect_tqdm([logging.getLogger("nmt")])
            self._open.enter_context(redirected)
            self._open.callback(self._bar.close)

    def advance(self) -> None:
        """Counts an update."""
        if self._bar is not None:
            self._bar.update()

    def show(self, update: int, numbers: dict[str, float], seconds_left: float | None) -> None:
        """Shows the numbers of the last window.

        Args:
            update: updates done.
            numbers: the metrics line: loss, perplexity, tokens_per_second and others.
            seconds_left: of the whole run, or None if unknown.
        """
        left = "?" if seconds_left is None else _clock(seconds_left)
        text = (
            f"loss {numbers['loss']:.3f}  ppl {numbers['perplexity']:.2f}  "
            f"{numbers['tokens_per_second']:,.0f} tok/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(f"{text}  left {left}")
            return
        now = time.monotonic()
        if self._quiet or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        logger.info("update %d  epoch %d  %s  left %s", update, numbers["epoch"], text, left)

    def close(self) -> None:
        """Closes the bar."""
        self._open.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
