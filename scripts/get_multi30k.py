"""Lays the Multi30k English-German task (captions of pictures) under data/multi30k.

    python scripts/get_multi30k.py               # downloads it
    python scripts/get_multi30k.py --from DIR    # takes it from a folder

29,000 / 1,014 / 1,000 pairs for training, validation and test. Elliott, Frank, Sima'an and Specia
2016, "Multi30K: Multilingual English-German Image Descriptions". For research and education, not
for commercial use. Safe to run again: files that are there and right are left alone.
"""

import argparse
import gzip
import hashlib
import os
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path

ADDRESS = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
SECONDS = 60

# SHA-256 of the text itself: the same text can be compressed in many ways.
CHECKSUMS = {
    "train.en.gz": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.de.gz": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "val.en.gz": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de.gz": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "test_2016_flickr.en.gz": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de.gz": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
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


def from_address(name: str) -> bytes:
    """Returns a file from where it was published."""
    try:
        with urllib.request.urlopen(ADDRESS + name, timeout=SECONDS) as answer:
            data: bytes = answer.read()
            return data
    except (urllib.error.URLError, OSError) as error:
        raise UnusableError(
            f"{ADDRESS}{name}: cannot be downloaded ({getattr(error, 'reason', error)}). "
            "Try again, or fetch the files another way and give their folder with --from DIR."
        ) from error


def lay(name: str, source: Path | None, output: Path) -> bool:
    """Puts one file in its place; returns False if it was there already."""
    target = output / name
    if target.is_file() and is_published(name, target.read_bytes()):
        return False
    data = from_address(name) if source is None else from_folder(source, name)
    if not is_published(name, data):
        place = f"{ADDRESS}{name}" if source is None else f"{source}: {name}"
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="take the files from this folder"
    )
    parser.add_argument("--output", type=Path, default=Path("data/multi30k"), metavar="DIR")
    args = parser.parse_args()
    try:
        new = [lay(name, args.source, args.output) for name in CHECKSUMS]
    except UnusableError as error:
        print(f"get_multi30k: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(new)} files, {sum(new)} of them new; their checksums are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
