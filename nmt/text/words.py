"""Which word each piece of a text belongs to; words are what stands between spaces."""

import re
from collections.abc import Sequence

# How SentencePiece writes a space.
SPACE = "\u2581".encode()
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def words_of(pieces: Sequence[str]) -> list[int]:
    """Returns the number of the word that each piece begins in; -1 for spaces on their own.

    Words outside the vocabulary are spelled in bytes, the sign for a space included, so words are
    found among the bytes of all pieces.

    Args:
        pieces: as SentencePiece writes them: `\u2581` for a space, `<0x2E>` for a byte.
    """
    text, owners = b"", []
    for index, piece in enumerate(pieces):
        byte = _BYTE.fullmatch(piece)
        own = bytes([int(byte[1], 16)]) if byte else piece.encode()
        text += own
        owners += [index] * len(own)
    words = [-1] * len(pieces)
    for word, match in enumerate(re.finditer(rb"[^ ]+", text.replace(SPACE, b"   "))):
        for index in owners[match.start() : match.end()]:
            if words[index] < 0:
                words[index] = word
    return words
