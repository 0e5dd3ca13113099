"""Virtual environments of the peers, made once and used again."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0"

# importlib_metadata: JoeyNMT imports it, but does not say that it needs it.
REQUIREMENTS = {
    "marian": (TORCH, "transformers==5.24.0"),
    "joeynmt": (TORCH, "joeynmt==2.3.0", "importlib_metadata"),
}


class UnavailableError(Exception):
    """A side that cannot be had; the text is the reason, one line."""


def make(folder: Path, requirements: Sequence[str]) -> Path:
    """Returns the Python of an environment with these packages, made if it is not there.

    Args:
        folder: of the environment.
        requirements: as pip takes them.

    Raises:
        UnavailableError: pip could not install them.
    """
    # Absolute, but not resolved: the link's target is the Python without the packages.
    python = folder.absolute() / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = "\n".join(requirements) + "\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making {folder} ({', '.join(requirements)})", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", *requirements])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line] or lines or ["no output"]
        raise UnavailableError(f"not installable: {errors[0].strip()}")
