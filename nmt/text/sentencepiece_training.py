"""Training SentencePiece models (Kudo and Richardson 2018)."""

import dataclasses
import io
import logging
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

import sentencepiece

from nmt import errors

logger = logging.getLogger(__name__)

# For characters and words the vocabulary size is an upper limit: there may be fewer.
OPEN_ENDED = frozenset({"char", "word"})

# SentencePiece splits its work by threads; one fixed number makes the result the same everywhere.
NUM_THREADS = 4

# Longer lines are no sentences; SentencePiece would drop them without a word.
MAX_LINE_CHARACTERS = 4096

# Pieces of SentencePiece's own: the special ones, and one for each byte.
NUM_SPECIAL, NUM_BYTES = 4, 256
RESERVED = re.compile(r"<unk>|<s>|</s>|<pad>|<0x[0-9A-F]{2}>")

NO_TEXT = "tokenizer: the training text has no line with text in it. Check the files of data.train."

# Less is taken for a mistake by SentencePiece.
MIN_COVERAGE = 0.98


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """How a model is trained; the names are those of the configuration's `tokenizer` section.

    `reserved` alone has no such name: it follows from the corpora.
    """

    type: str = "bpe"
    vocab_size: int = 8000
    normalization: str = "nmt_nfkc"
    lowercase: bool = False
    byte_fallback: bool = True
    character_coverage: float = 1.0
    user_defined_symbols: tuple[str, ...] = ()
    split_digits: bool = False
    max_sentences: int = 1_000_000
    seed: int = 1
    reserved: tuple[str, ...] = ()  # tags and the mask: pieces that no text has to spell


def train(
    lines: Iterable[str], settings: TokenizerSettings, *, key: str = "tokenizer.vocab_size"
) -> bytes:
    """Returns a SentencePiece model; the same lines and settings give the same bytes.

    Args:
        lines: text; a bounded random sample of it is used.
        settings: what to train.
        key: the configuration's name for the vocabulary size, for messages.

    Raises:
        errors.ConfigError: the vocabulary is larger than the data allows, or too small; settings
            that do not fit.
        errors.DataError: there is no text.
    """
    _check(settings, key)
    sample = _sample(lines, settings)
    if not sample:
        raise errors.DataError(NO_TEXT)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            **_options(settings),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise _explained(str(error), settings, key) from error
    return model.getvalue()


def _check(settings: TokenizerSettings, key: str) -> None:
    """Finds settings that SentencePiece would refuse in its own words, or pass over.

    Raises:
        errors.ConfigError: a setting does not fit.
    """
    if not MIN_COVERAGE <= settings.character_coverage <= 1.0:
        raise errors.ConfigError(
            f"tokenizer.character_coverage: out of range (given: {settings.character_coverage}). "
            f"Allowed: {MIN_COVERAGE} to 1.0. Take 1.0, or 0.9995 for Chinese or Japanese."
        )
    symbols = settings.user_defined_symbols
    for index, symbol in enumerate(symbols):
        fault = None
        if not symbol or any(
            character.isspace() or character in "\u2581\0" for character in symbol
        ):
            fault = "empty or with white space in it"
        elif RESERVED.fullmatch(symbol):
            fault = "a piece that is there already"
        elif symbol in symbols[:index]:
            fault = "there twice"
        elif settings.lowercase and symbol != symbol.lower():
            fault = "never met, because tokenizer.lowercase is on"
        if fault is not None:
            raise errors.ConfigError(
                f"tokenizer.user_defined_symbols: a symbol is {fault} (given: {symbol!r}). "
                "Allowed: different strings without white space. Mend it or leave it out."
            )
    smallest = NUM_SPECIAL + NUM_BYTES * settings.byte_fallback + len(_never_cut(settings)) + 1
    if settings.type in OPEN_ENDED and settings.vocab_size < smallest:
        raise _too_small(settings, key, smallest)


def _never_cut(settings: TokenizerSettings) -> list[str]:
    return list(dict.fromkeys([*settings.reserved, *settings.user_defined_symbols]))


def _options(settings: TokenizerSettings) -> dict[str, Any]:
    return {
        "model_type": settings.type,
        "vocab_size": settings.vocab_size,
        "hard_vocab_limit": settings.type not in OPEN_ENDED,
        "normalization_rule_name": settings.normalization,
        # What is not to be normalised keeps its spaces as well.
        "remove_extra_whitespaces": settings.normalization != "identity",
        "byte_fallback": settings.byte_fallback,
        "character_coverage": settings.character_coverage,
        "user_defined_symbols": _never_cut(settings),
        "split_digits": settings.split_digits,
        "max_sentence_length": 4 * MAX_LINE_CHARACTERS,  # in bytes
        "num_threads": NUM_THREADS,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": 3,
        "minloglevel": 2,
    }


def _sample(lines: Iterable[str], settings: TokenizerSettings) -> list[str]:
    """Returns at most `max_sentences` usable lines, each as likely as any other (Vitter 1985, R)."""
    generator = random.Random(settings.seed)
    sample: list[str] = []
    for number, line in enumerate(_usable(lines, settings)):
        if number < settings.max_sentences:
            sample.append(line)
        elif (place := generator.randint(0, number)) < settings.max_sentences:
            sample[place] = line
    return sample


def _usable(lines: Iterable[str], settings: TokenizerSettings) -> Iterator[str]:
    num_cut = 0
    for line in lines:
        if len(line) > MAX_LINE_CHARACTERS:
            num_cut += 1
            line = line[:MAX_LINE_CHARACTERS]
        # SentencePiece drops lines with NUL, and takes UTF-8, which has no lone surrogates.
        line = line.replace("\x00", " ").encode("utf-8", errors="replace").decode("utf-8")
        if settings.lowercase:
            line = line.lower()
        if line.strip():
            yield line
    if num_cut:
        logger.info(
            "%d lines of the tokenizer's training text were cut at %d characters",
            num_cut,
            MAX_LINE_CHARACTERS,
        )


def _too_small(settings: TokenizerSettings, key: str, smallest: int) -> errors.ConfigError:
    remedies = "Raise it"
    if settings.type not in OPEN_ENDED:
        remedies += ", or lower tokenizer.character_coverage"
    if settings.byte_fallback:
        remedies += f", or take tokenizer.byte_fallback: false, which saves {NUM_BYTES} pieces"
    return errors.ConfigError(
        f"{key}: has no room for all characters (given: {settings.vocab_size}). "
        f"Allowed: at least {smallest}. {remedies}."
    )


def _explained(message: str, settings: TokenizerSettings, key: str) -> errors.NMTError:
    """Returns SentencePiece's complaint in the words of the configuration."""
    if match := re.search(r"set it to a value <= (\d+)", message):
        return errors.ConfigError(
            f"{key}: {settings.vocab_size} is more than the training text allows "
            f"(at most {match[1]}). Lower it, or add text."
        )
    if match := re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message):
        return _too_small(settings, key, int(match[2]))
    if "all_chars_count" in message:
        return errors.DataError(NO_TEXT)
    text = " ".join(message.split())
    return errors.ConfigError(f"tokenizer: SentencePiece cannot train a model ({text}).")
