"""The command `nmt`: parses, runs one verb, and turns failures into one line and an exit status.

Exit status: 0 done, 1 failure, 2 wrong command line or configuration, 130 interrupted, 143
terminated. The verbs are imported when they are called, since they import torch.
"""

import argparse
import contextlib
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from nmt import errors
from nmt.cli import parser

# Verbs that compute with torch, whose allocator has to be set up before it is imported.
TORCH_VERBS = frozenset(
    {
        *("train", "check", "translate", "evaluate", "score", "average", "export", "optimize"),
        *("report", "plot"),
    }
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line.

    Args:
        argv: without the program's name; None takes that of the process.

    Returns:
        The exit status.
    """
    argv = sys.argv[1:] if argv is None else argv
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (stays open)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As translations are, whatever the locale says.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if not argv:
        parser.build()[0].print_help()
        return 2
    try:
        args = parser.parse(argv)
    except errors.UsageError as error:
        verb = f" {argv[0]}" if not argv[0].startswith("-") and _is_verb(argv[0]) else ""
        return _fail(f"nmt{verb}: {error}", error.exit_code)
    except SystemExit as request:
        # --help or --version was asked for and printed.
        return _flushed(int(request.code or 0))
    except OSError as error:
        # Their text did not get out.
        _give_up_stdout()
        return _fail(f"nmt: {_describe(error)}", 1)
    with _logging(args):
        return _run(args)


def entry() -> NoReturn:
    """Runs the console command and ends the process.

    Ends without Python's teardown, which takes torch a noticeable part of a second; everything that
    has to be on disk is there when a verb returns.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # What queues to other processes hold in the system, which a helper of Python's would report as leaked.
    shared = sys.modules.get("multiprocessing.util")
    if shared is not None:
        with contextlib.suppress(OSError):
            shared._run_finalizers(0)
    os._exit(code)


def _run(args: argparse.Namespace) -> int:
    """Calls the verb; every failure that is not our own bug becomes one line."""
    try:
        _check_streams(args)
        if args.verb in TORCH_VERBS:
            from nmt.runtime import allocator

            allocator.tune()
        code: int = importlib.import_module(f"nmt.cli.{args.verb}").run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except errors.PeerError as error:
        return error.exit_code
    except errors.NMTError as error:
        is_flag = isinstance(error, errors.UsageError) and str(error).startswith("--")
        is_flag = is_flag and not isinstance(error, errors.ConfigError)
        return _fail(f"nmt {args.verb}: {error}" if is_flag else f"nmt: {error}", error.exit_code)
    except KeyboardInterrupt:
        return _fail("nmt: interrupted", 130)
    except BrokenPipeError:
        _give_up_stdout()
        return _fail("nmt: stdout: its reader has gone before all was written.", 1)
    except MemoryError:
        return _fail("nmt: out of memory. Make batches smaller, or take a larger machine.", 1)
    except OSError as error:
        _give_up_stdout()
        return _fail(f"nmt: {_describe(error)}", 1)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        what = str(error).strip().split("\n")[0]
        return _fail(f"nmt: out of memory ({what}). Make batches smaller.", 1)


def _flushed(code: int) -> int:
    """Returns the exit status, after what was printed has got out."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _give_up_stdout()
        return _fail(f"nmt: {_describe(error)}", 1)
    return code


def _check_streams(args: argparse.Namespace) -> None:
    """Refuses closed standard streams where they are needed; elsewhere the null device serves.

    Raises:
        errors.FileError: stdin or stdout is closed.
    """
    reads = (args.verb in {"translate", "mbr"} and args.input is None) or (
        args.verb == "score" and args.src is None
    )
    has_output = args.verb in {"translate", "score", "mbr"}
    prints = {"check", "evaluate", "export", "inspect", "optimize", "runs"}
    writes = args.verb in prints or (has_output and args.output is None)
    if sys.stdin is None:
        if reads:
            flags = "files with --src and --tgt" if args.verb == "score" else "a file with --input"
            raise errors.FileError(f"stdin: is closed. Give lines on stdin, or {flags}.")
        sys.stdin = open(os.devnull)  # noqa: SIM115 (stays open)
    if sys.stdout is None:
        if writes:
            hint = ", or a file with --output" if has_output else ""
            raise errors.FileError(f"stdout: is closed. Give somewhere to write to{hint}.")
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (stays open)


def _give_up_stdout() -> None:
    """Lets what stdout still buffers run into the null device, so that no later flush fails."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
    return code


def _describe(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    hint = " Free some space." if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
    return f"{error.filename}: {what}.{hint}" if error.filename else f"{what}.{hint}"


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Returns whether torch could not allocate; without torch nobody says so with this error."""
    if "torch" not in sys.modules:
        return False
    from nmt.runtime import memory  # imports torch

    return memory.is_exhausted(error)


def _is_verb(name: str) -> bool:
    return name in parser.build()[1]


@contextlib.contextmanager
def _logging(args: argparse.Namespace) -> Iterator[None]:
    """Sends our messages to stderr, as plain lines, for as long as the verb runs."""
    root = logging.getLogger("nmt")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    # The level is the handler's, so that --quiet does not thin out the run's own log.
    handler.setLevel(logging.WARNING if args.quiet else logging.DEBUG)
    before = root.level
    root.setLevel(logging.DEBUG if args.verbose else logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


if __name__ == "__main__":
    entry()
