"""From text to ids and back, with models that stay with the run they belong to.

tokenizer/
    tokenizer.json       what the folder holds
    spm.model            one SentencePiece model for both sides, or
    src.model tgt.model  one for each
    spm.vocab ...        the pieces, one a line, to read
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import sentencepiece

from nmt import errors
from nmt.runtime import files
from nmt.text import sentencepiece_training as training
from nmt.text import vocab

Side = Literal["src", "tgt"]
FORMAT = 1
DESCRIPTION = "tokenizer.json"
SHARED = "spm"  # name of the model of both sides
NO_ID = -1  # what SentencePiece calls a special piece that a model lacks
SPACE = "\u2581"  # what SentencePiece writes for a space
REPLACEMENT = "\ufffd"  # and for a byte that is no whole character


class Tokenizer:
    """One side's tokenizer.

    Attributes:
        vocab: the pieces, and the special ids.
    """

    def __init__(self, model: bytes, place: str, *, lowercase: bool) -> None:
        """Takes a SentencePiece model.

        Args:
            model: the content of its file.
            place: where it came from, for messages.
            lowercase: whether text is lower-cased first.

        Raises:
            errors.ModelError: it is no SentencePiece model.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError, TypeError) as error:
            raise errors.ModelError(
                f"{place}: is no SentencePiece model. Give a file that SentencePiece wrote."
            ) from error
        self._lowercase = lowercase
        self.vocab = _vocab_of(self._processor)
        self._silent = {self.vocab.bos_id, self.vocab.eos_id, self.vocab.pad_id}

    @classmethod
    def load(cls, folder: Path, side: Side) -> "Tokenizer":
        """Loads one side of a tokenizer folder.

        Raises:
            errors.ModelError: a file is missing or broken.
        """
        description = folder / DESCRIPTION
        try:
            content = json.loads(description.read_text(encoding="utf-8"))
            is_shared, lowercase = bool(content["shared"]), bool(content["lowercase"])
            version = content["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.ModelError(
                f"{description}: missing or broken. Copy the model folder again."
            ) from error
        if version != FORMAT:
            raise errors.ModelError(
                f"{description}: of another version (given: {version}). This one reads {FORMAT}."
            )
        path = folder / f"{SHARED if is_shared else side}.model"
        try:
            model = path.read_bytes()
        except OSError as error:
            raise errors.ModelError(
                f"{path}: cannot be read ({error.strerror}). Copy the model folder again."
            ) from error
        return cls(model, str(path), lowercase=lowercase)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without BOS and EOS; any text is allowed."""
        return self.encode_batch([text])[0]

    def encode_exactly(self, text: str) -> list[int] | None:
        """Returns ids that read as the text does, which `encode` may normalise: ² is 2 to it.

        Characters that are changed by that are spelled in bytes, where the model has them. White space
        counts as one space, and case is the model's own.

        Returns:
            None where no pieces of the model read so.
        """
        words = (text.lower() if self._lowercase else text).split()
        whole = self.encode(" ".join(words))
        if self._reads_as(whole, words):
            return whole
        ids: list[int] = []
        for is_changed, several in itertools.groupby(
            words, lambda word: not self._reads_as(self.encode(word), [word])
        ):
            if not is_changed:
                ids += self.encode(" ".join(several))
                continue
            for word in several:
                ids += self._exact_word(word)
        return ids if self._reads_as(ids, words) else None

    def _exact_word(self, word: str) -> list[int]:
        """Returns the ids of a word in which normalisation changes something."""
        ids: list[int] = []
        for is_changed, letters in itertools.groupby(
            word, lambda letter: self.normalize(letter) != SPACE + letter
        ):
            run = "".join(letters)
            if is_changed:
                ids += [*([] if ids else self._space), *self.spell(run)]
            else:
                ids += self._inside(run) if ids else self.encode(run)
        return ids

    def _inside(self, run: str) -> list[int]:
        """Returns the ids of letters that go on with a word, without a sign for a space in front."""
        ids, space = self.encode(run), self.spell(SPACE)
        if ids[: len(space)] == space:
            return ids[len(space) :]
        first, *rest = ids
        piece = self.vocab.pieces[first].removeprefix(SPACE)
        token: int = self._processor.PieceToId(piece)
        is_there = self._processor.IdToPiece(token) == piece
        return [*([token] if is_there else self.spell(piece)), *rest]

    def _reads_as(self, ids: Sequence[int], words: Sequence[str]) -> bool:
        """Returns whether ids are the text of these words; one letter may be written in two ways."""
        if self.vocab.unk_id in ids:
            return False
        found, wanted = self.decode(ids), " ".join(words)
        return " ".join(found.split()) == wanted or unicodedata.normalize(
            "NFC", " ".join(found.split())
        ) == unicodedata.normalize("NFC", wanted)

    @functools.cached_property
    def _space(self) -> list[int]:
        """The ids of the sign for a space."""
        token: int = self._processor.PieceToId(SPACE)
        return self.spell(SPACE) if token == self.vocab.unk_id else [token]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text; see `encode`."""
        if not texts:
            return []
        ids: list[list[int]] = self._processor.EncodeAsIds([self._clean(text) for text in texts])
        return ids

    def ids_of(self, pieces: Sequence[str]) -> list[int]:
        """Returns the ids of pieces that the vocabulary has to have, such as tags.

        Raises:
            errors.ConfigError: it lacks some.
        """
        ids: list[int] = [self._processor.PieceToId(piece) for piece in pieces]
        missing = [
            piece
            for piece, token in zip(pieces, ids, strict=True)
            if self._processor.IdToPiece(token) != piece
        ]
        if missing:
            raise errors.ConfigError(
                f"tokenizer: the vocabulary lacks pieces that the corpora of data.train ask for (given: "
                f"{', '.join(missing)}). Name them in tokenizer.user_defined_symbols where it is trained."
            )
        return ids

    def surfaces(self, text: str) -> list[str]:
        """Returns the pieces of a text as it is written, also what no piece of the model covers."""
        pieces: list[str] = self._processor.EncodeAsPieces(self._clean(text))
        return pieces

    def normalize(self, text: str) -> str:
        """Returns a text as SentencePiece cuts it: normalised, with signs for spaces."""
        normalized: str = self._processor.Normalize(self._clean(text))
        return normalized

    def best(self, text: str, number: int) -> list[list[int]]:
        """Returns the ids of so many best ways to cut a text, for unigram models."""
        found: list[list[int]] = self._processor.NBestEncodeAsIds(self._clean(text), number)
        return found

    def score(self, token: int) -> float:
        """Returns the score of a piece: a log-probability in unigram models."""
        found: float = self._processor.GetScore(token)
        return found

    def spell(self, text: str) -> list[int]:
        """Returns the ids of a text that no piece covers: its bytes, where the model has them."""
        try:
            content = text.encode("utf-8")
        except UnicodeEncodeError:  # lone surrogates
            return [self.vocab.unk_id]
        ids: list[int] = [self._processor.PieceToId(f"<0x{byte:02X}>") for byte in content]
        unknown = self.vocab.unk_id
        return [unknown] if unknown in ids else ids

    def model_proto(self) -> bytes:
        """Returns the model as SentencePiece stores it."""
        proto: bytes = self._processor.serialized_model_proto()
        return proto

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, on one line; BOS, EOS and padding are passed over."""
        wanted = [int(token) for token in ids if token not in self._silent]
        text: str = self._processor.DecodeIds(wanted)
        if SPACE in text:
            # Words outside the vocabulary are spelled in bytes, the sign for a space included.
            text = text.removeprefix(SPACE).replace(SPACE, " ")
        # Pieces that stand for bytes can spell a line end, too.
        return text.replace("\n", " ").replace("\r", " ")

    def _clean(self, text: str) -> str:
        # SentencePiece takes UTF-8, which has no lone surrogates.
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        return text.lower() if self._lowercase else text


def _vocab_of(processor: sentencepiece.SentencePieceProcessor) -> vocab.Vocab:
    """Returns the pieces of a model, with the special ones that it lacks behind them."""
    pieces = [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]
    ids = {}
    for name, piece, found in (
        ("bos", vocab.BOS, processor.bos_id()),
        ("eos", vocab.EOS, processor.eos_id()),
        ("pad", vocab.PAD, processor.pad_id()),
    ):
        if found == NO_ID:
            found = len(pieces)
            pieces.append(piece)
        ids[f"{name}_id"] = found
    return vocab.Vocab(tuple(pieces), unk_id=processor.unk_id(), **ids)


def build_tokenizers(
    folder: Path,
    settings: training.TokenizerSettings,
    src_lines: Callable[[], Iterator[str]],
    tgt_lines: Callable[[], Iterator[str]],
    *,
    shared: bool,
    tgt_vocab_size: int | None = None,
    tgt_type: str | None = None,
) -> None:
    """Trains the tokenizers of a run and writes their folder, whole or not at all.

    Args:
        folder: `tokenizer/` of the run; not there yet.
        settings: what to train.
        src_lines: starts reading the source lines.
        tgt_lines: starts reading the target lines.
        shared: one model for both sides.
        tgt_vocab_size: size of a separate target vocabulary, or None for `settings.vocab_size`. It has
            none of the reserved pieces, which stand in sources only.
        tgt_type: kind of pieces of a separate target vocabulary, or None for `settings.type`.

    Raises:
        errors.ConfigError: the vocabulary does not fit the data.
        errors.DataError: there is no text.
        errors.FileError: the folder cannot be written.
    """
    if shared:

        def both() -> Iterator[str]:
            yield from src_lines()
            yield from tgt_lines()

        models = {SHARED: training.train(both(), settings)}
    else:
        key = "tokenizer.vocab_size"
        tgt_size, tgt_key = settings.vocab_size, f"{key} (target)"
        if tgt_vocab_size is not None:
            tgt_size, tgt_key = tgt_vocab_size, "tokenizer.tgt_vocab_size"
        tgt_settings = dataclasses.replace(settings, vocab_size=tgt_size, reserved=())
        tgt_settings = dataclasses.replace(tgt_settings, type=tgt_type or settings.type)
        models = {
            "src": training.train(src_lines(), settings, key=f"{key} (source)"),
            "tgt": training.train(tgt_lines(), tgt_settings, key=tgt_key),
        }
    _write(folder, models, kind=settings.type, lowercase=settings.lowercase)


def adopt_models(folder: Path, src: Path, tgt: Path | None, *, lowercase: bool) -> None:
    """Takes ready SentencePiece models into a run.

    Args:
        folder: `tokenizer/` of the run; not there yet.
        src: the source model, or the one of both sides.
        tgt: the target model, or None if `src` is for both.
        lowercase: whether text is lower-cased first.

    Raises:
        errors.ConfigError: a file cannot be read, or is no SentencePiece model.
        errors.FileError: the folder cannot be written.
    """
    paths = {SHARED: src} if tgt is None else {"src": src, "tgt": tgt}
    models = {}
    for name, path in paths.items():
        try:
            files.check_readable(path)
            models[name] = path.read_bytes()
            Tokenizer(models[name], str(path), lowercase=lowercase)
        except (errors.FileError, errors.ModelError) as error:
            raise errors.ConfigError(f"tokenizer: {error}") from error
        except OSError as error:
            raise errors.ConfigError(
                f"tokenizer: {path}: cannot be read ({error.strerror}). Check the file."
            ) from error
    _write(folder, models, kind="ready", lowercase=lowercase)


def _write(folder: Path, models: dict[str, bytes], *, kind: str, lowercase: bool) -> None:
    """Writes the folder.

    Args:
        folder: where to.
        models: SentencePiece models by name.
        kind: of the models, for those who read the description.
        lowercase: whether text is lower-cased first.
    """
    contents: dict[str, bytes] = {}
    for name, model in models.items():
        contents[f"{name}.model"] = model
        pieces = Tokenizer(model, name, lowercase=lowercase).vocab.pieces
        contents[f"{name}.vocab"] = ("\n".join(pieces) + "\n").encode()
    description = {
        "format": FORMAT,
        "type": kind,
        "shared": SHARED in models,
        "lowercase": lowercase,
    }
    contents[DESCRIPTION] = files.json_text(description).encode()
    _make_folder(folder, contents)


def copy(source: Path, folder: Path) -> None:
    """Copies the tokenizer of a model folder.

    Args:
        source: `tokenizer/` of a model folder that was verified.
        folder: `tokenizer/` of a run; not there yet.

    Raises:
        errors.FileError: a file cannot be read, or the folder cannot be written.
    """
    try:
        contents = {path.name: path.read_bytes() for path in sorted(source.glob("[!.]*"))}
    except OSError as error:
        raise errors.FileError(f"{source}: cannot be read ({error.strerror}).") from error
    _make_folder(folder, contents)


def _make_folder(folder: Path, contents: dict[str, bytes]) -> None:
    """Makes a folder of files by name, whole or not at all: under another name, then renamed."""
    unfinished = folder.with_name(f".tmp-{folder.name}")
    files.remove_tree(unfinished)
    files.make_dir(unfinished)
    try:
        for name, content in contents.items():
            with files.atomic_write(unfinished / name) as stream:
                stream.write(content)
        try:
            os.rename(unfinished, folder)
        except OSError as error:
            raise errors.FileError(
                f"{folder}: cannot be made ({error.strerror}). Remove what is there."
            ) from error
        files.fsync_dir(folder.parent)
    except BaseException:
        with contextlib.suppress(errors.FileError):
            files.remove_tree(unfinished)
        raise
