"""Makes a corpus for summarising from the Python files of this environment.

    python scripts/make_docstring_corpus.py --output data/docstrings

The first paragraph of a docstring says in a line what the rest explains: the rest is the source, the first
paragraph the target. Sources are cut at so many words. Which files there are depends on the Python and
the packages that are installed; a module is in one part only, by a hash of its path.
"""

import argparse
import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

MAX_WORDS = 80  # of a source
SUMMARY_WORDS = range(3, 26)
MIN_WORDS = 15  # of a source

# Of a hundred.
TEST_SHARE, VALID_SHARE = 5, 5

Pairs = dict[str, list[tuple[str, str]]]


def pairs_of(code: str) -> Iterator[tuple[str, str]]:
    """Yields the rest and the first paragraph of each docstring that has both.

    Raises:
        SyntaxError: it is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's escapes
        tree = ast.parse(code)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            continue
        head, _, body = (ast.get_docstring(node) or "").partition("\n\n")
        summary, words = head.split(), body.split()
        if len(summary) in SUMMARY_WORDS and len(words) >= MIN_WORDS:
            yield " ".join(words[:MAX_WORDS]), " ".join(summary)


def split_of(name: str) -> str:
    """Returns which part the module of this path belongs to."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
    if number < TEST_SHARE:
        return "test"
    return "valid" if number < TEST_SHARE + VALID_SHARE else "train"


def collect(roots: list[Path]) -> Pairs:
    """Returns the different pairs of each part."""
    found: Pairs = {"train": [], "valid": [], "test": []}
    seen: set[str] = set()
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if "site-packages" in path.relative_to(root).parts:
                continue
            try:
                pairs = list(pairs_of(path.read_text(encoding="utf-8")))
            except (OSError, SyntaxError, ValueError, RecursionError):
                continue  # test files of Python are broken on purpose
            part = split_of(path.relative_to(root).as_posix())
            for source, summary in pairs:
                # What is copied from module to module would be in two parts.
                if source not in seen:
                    seen.add(source)
                    found[part].append((source, summary))
    return found


def write(folder: Path, parts: Pairs) -> None:
    """Writes `<part>.text` and `<part>.summary`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, pairs in parts.items():
        for side, kind in enumerate(("text", "summary")):
            unfinished = folder / f".tmp-{os.getpid()}"
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            unfinished.write_text(text, encoding="utf-8", errors="replace")
            os.replace(unfinished, folder / f"{part}.{kind}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data/docstrings"), metavar="DIR")
    parser.add_argument(
        "--root",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of Python files; repeatable. Default: the standard library and the packages",
    )
    args = parser.parse_args()
    default = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    parts = collect(args.root or default)
    if not all(parts.values()):
        print(
            "make_docstring_corpus: too few docstrings; name more folders by --root.",
            file=sys.stderr,
        )
        return 1
    write(args.output, parts)
    counts = ", ".join(f"{len(pairs):,} {part}" for part, pairs in parts.items())
    print(f"{args.output}: {counts} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
