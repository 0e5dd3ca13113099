"""Lays the Multi30k English-German task (captions of pictures) under data/multi30k.

    python scripts/get_multi30k.py               # downloads it
    python scripts/get_multi30k.py --from DIR    # takes it from a folder
    python scripts/get_multi30k.py --small 2000  # also writes data/multi30k-2000: so many training pairs

29,000 / 1,014 / 1,000 pairs for training, validation and test: as published (`train.en.gz`), and in
the publisher's own lower-cased, normalised and tokenised version (`train.lc.norm.tok.en.gz`), on
which results of papers are. Elliott, Frank, Sima'an and Specia 2016, "Multi30K: Multilingual
English-German Image Descriptions". For research and education, not for commercial use. Safe to run
again: files that are there and right are left alone.
"""

import argparse
import gzip
import hashlib
import os
import random
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path

ADDRESS = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/"
SECONDS = 60

# SHA-256 of the text itself: the same text can be compressed in many ways.
CHECKSUMS = {
    "train.en.gz": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.de.gz": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "val.en.gz": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de.gz": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "test_2016_flickr.en.gz": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de.gz": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "train.lc.norm.tok.en.gz": "08925f8e0572bcd5a006702fc5fe20e2d77c6917d4eebd576fc20de6693c2119",
    "train.lc.norm.tok.de.gz": "cb5a23529b65ec2061f1dc446192a9c37382b63cc75f81a0be59d34894b3a505",
    "val.lc.norm.tok.en.gz": "46573ce391ae227f1c72f873392436a20ef18e0a6d518098cfbd70b77c8572ec",
    "val.lc.norm.tok.de.gz": "97232bd273eceb7207f689527386a97e4be2616b18ada47576bdaf96c8ae1f00",
    "test_2016_flickr.lc.norm.tok.en.gz": (
        "5b7f32627cf99eced828311b955dae9800bb52bc8b91cf8b6526829e605b29d2"
    ),
    "test_2016_flickr.lc.norm.tok.de.gz": (
        "c6a33d39d48f9f510de147651316cd9d918e09ad0219df734a2f16b6baccacc4"
    ),
}


class UnusableError(Exception):
    """A file that cannot be had, or is not the published one; the text is the line to print."""


def is_published(name: str, data: bytes) -> bool:
    """Returns whether compressed data holds the published text of this name."""
    try:
        text = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return False
    return hashlib.sha256(text).hexdigest() == CHECKSUMS[name]


def from_folder(folder: Path, name: str) -> bytes:
    """Returns a file that stands anywhere below a folder."""
    found = sorted(folder.rglob(name))
    if not found:
        raise UnusableError(f"{folder}: has no {name}, nor has a folder in it.")
    try:
        return found[0].read_bytes()
    except OSError as error:
        raise UnusableError(f"{found[0]}: cannot be read ({error.strerror}).") from error


def address_of(name: str) -> str:
    """Returns where a file was published; the tokenised version stands there uncompressed."""
    return f"{ADDRESS}tok/{name.removesuffix('.gz')}" if ".tok." in name else f"{ADDRESS}raw/{name}"


def from_address(name: str) -> bytes:
    """Returns a file from where it was published, compressed."""
    address = address_of(name)
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            data: bytes = answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise UnusableError(
            f"{address}: cannot be downloaded ({getattr(error, 'reason', error)}). "
            "Try again, or fetch the files another way and give their folder with --from DIR."
        ) from error
    return data if address.endswith(".gz") else gzip.compress(data, mtime=0)


def lay(name: str, source: Path | None, output: Path) -> bool:
    """Puts one file in its place; returns False if it was there already."""
    target = output / name
    if target.is_file() and is_published(name, target.read_bytes()):
        return False
    data = from_address(name) if source is None else from_folder(source, name)
    if not is_published(name, data):
        place = address_of(name) if source is None else f"{source}: {name}"
        raise UnusableError(
            f"{place}: is torn, or not the published text (its SHA-256 is another one)."
        )
    unfinished = target.with_name(f".tmp-{os.getpid()}-{name}")
    try:
        output.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        os.replace(unfinished, target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UnusableError(f"{target}: cannot be written ({error.strerror}).") from error
    return True


def cut(folder: Path, number: int) -> Path:
    """Writes a folder beside the task with so many of its training pairs, always the same ones."""
    sides = {}
    for language in ("en", "de"):
        text = gzip.decompress((folder / f"train.{language}.gz").read_bytes()).decode("utf-8")
        sides[language] = text.removesuffix("\n").split("\n")
    total = len(sides["en"])
    if not 1 <= number <= total:
        raise UnusableError(f"--small: wants 1 to {total:,} pairs (given: {number}).")
    chosen = sorted(random.Random(1).sample(range(total), number))
    target = folder.with_name(f"{folder.name}-{number}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for language, lines in sides.items():
            unfinished = target / f".tmp-{os.getpid()}-{language}"
            unfinished.write_text(
                "".join(f"{lines[place]}\n" for place in chosen), encoding="utf-8"
            )
            os.replace(unfinished, target / f"train.{language}")
    except OSError as error:
        raise UnusableError(f"{target}: cannot be written ({error.strerror}).") from error
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="take the files from this folder"
    )
    parser.add_argument("--output", type=Path, default=Path("data/multi30k"), metavar="DIR")
    parser.add_argument(
        "--small", type=int, metavar="N", help="also write a folder with N of the training pairs"
    )
    args = parser.parse_args()
    try:
        new = [lay(name, args.source, args.output) for name in CHECKSUMS]
        small = None if args.small is None else cut(args.output, args.small)
    except UnusableError as error:
        print(f"get_multi30k: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(new)} files, {sum(new)} of them new; their checksums are right")
    if small is not None:
        print(f"{small}: {args.small:,} training pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
