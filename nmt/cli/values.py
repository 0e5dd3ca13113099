"""What flags take, with the words for what they do not."""

import argparse
from collections.abc import Callable, Sequence

from nmt import errors


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Returns a type of flag that takes these words."""

    def choose(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(
                f"wants one of {', '.join(choices)} (given: {text!r})."
                + errors.did_you_mean(text, choices)
            )
        return text

    return choose


def several_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Returns a type of flag that takes some of these words, apart by commas, each once."""
    choose = one_of(choices)

    def listed(text: str) -> list[str]:
        return list(dict.fromkeys(choose(part.strip()) for part in text.split(",")))

    return listed


def integer(text: str) -> int:
    """Returns a whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"wants a whole number (given: {text!r}).") from error


def positive(text: str) -> int:
    """Returns a whole number of at least 1."""
    found = integer(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"wants at least 1 (given: {found}).")
    return found


def positives(text: str) -> list[int]:
    """Returns whole numbers of at least 1, apart by commas."""
    return [positive(part) for part in text.split(",")]


def number(text: str) -> float:
    """Returns any number."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"wants a number (given: {text!r}).") from error


def weights(text: str) -> list[float]:
    """Returns numbers above 0, apart by commas.

    Raises:
        argparse.ArgumentTypeError: something else is there.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(1e-9 <= weight <= 1e9 for weight in found):
        raise argparse.ArgumentTypeError(
            f"wants numbers above 0, apart by commas, such as 0.7,0.3 (given: {text!r})."
        )
    return found
