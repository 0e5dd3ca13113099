import argparse
import errno
import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

from nmt import errors
from nmt.cli import main as cli
from nmt.cli import parser

COMMAND = [sys.executable, "-m", "nmt.cli.main"]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], None]:
    """Puts a function in the place of `nmt inspect`."""

    def replace(run: Callable[..., int]) -> None:
        module = types.ModuleType("nmt.cli.inspect")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "nmt.cli.inspect", module)

    return replace


def fail_with(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_help_imports_neither_torch_nor_pydantic():
    code = (
        "import sys\nfrom nmt.cli import main\nassert main.main(['--help']) == 0\n"
        "heavy = {'torch', 'pydantic', 'sacrebleu', 'yaml', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in parser.build()[1]:
        assert name in done.stdout


@pytest.mark.parametrize("name", list(parser.build()[1]))
def test_every_verb_has_help_with_every_flag_described(name: str, capsys):
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--quiet" in shown and "--verbose" in shown
    for action in parser.build()[1][name]._actions:
        assert action.help, action.dest


def test_nothing_at_all_prints_help(capsys):
    assert cli.main([]) == 2
    assert "VERB" in capsys.readouterr().out


def test_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nmt ")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["translate", "--beam-sise", "3"],
            "nmt translate: --beam-sise: unknown option. Did you mean '--beam-size'?",
        ),
        (
            ["translate", "--beam-sise=3"],
            "nmt translate: --beam-sise: unknown option. Did you mean '--beam-size'?",
        ),
        (["init", "--srk", "a"], "nmt init: --srk: unknown option. Did you mean '--src'?"),
        (
            ["inspect", "--zzzzz"],
            "nmt inspect: --zzzzz: unknown option. `nmt inspect --help` lists the options.",
        ),
        (["inspect", "-z"], "nmt inspect: -z: unknown option. "),
        (["trian"], "nmt: trian: unknown verb. Did you mean 'train'? "
                    "Known: init, check, train, translate, evaluate, score, mbr, inspect, "
                    "runs, report, plot, average, export, optimize."),
        (["--quit", "train"], "nmt: --quit: unknown option before the verb. Allowed there: --help, "
                              "--version. Write the verb first: nmt VERB --quit"),
        (["train"], "nmt train: CONFIG: missing. Add it."),
        (["train", "a", "b"], "nmt train: 'b': is one argument too many. "
                              "`nmt train --help` lists what fits."),
        (["translate", "--beam-size"], "nmt translate: --beam-size: wants a value."),
        (
            ["translate", "--beam-size", "five"],
            "nmt translate: --beam-size: wants a whole number (given: 'five').",
        ),
        (["translate", "--patience", "x"], "nmt translate: --patience: wants a number (given: 'x')."),
        (["translate", "--threads", "0"], "nmt translate: --threads: wants at least 1 (given: 0)."),
        (
            ["translate", "--precision", "fp31"],
            "nmt translate: --precision: wants one of auto, fp32, bf16, int8, fp16, fp64 "
            "(given: 'fp31'). Did you mean 'fp32'?",
        ),
        (
            ["train", "c.yaml", "--precision", "int8"],
            "nmt train: --precision: wants one of auto, fp32, bf16, fp16, fp64 (given: 'int8').",
        ),
        (["evaluate", "--bleu=1"], "nmt evaluate: --bleu: takes no value (given: '1')."),
        (["inspect", "-q", "-v"], "nmt inspect: --verbose: does not go with --quiet. "
                                  "Give one of them."),
        (
            ["translate", "--ensemble-weights", "0.7,0"],
            "nmt translate: --ensemble-weights: wants numbers above 0, apart by commas, such as "
            "0.7,0.3 (given: '0.7,0').",
        ),
        (["score", "--ensemble-weights", "a"], "nmt score: --ensemble-weights: wants numbers "),
        (["score", "--ensemble-weights", "nan,1"], "nmt score: --ensemble-weights: wants numbers "),
        (
            ["translate", "--mbr", "blue"],
            "nmt translate: --mbr: wants one of chrf, bleu (given: 'blue'). Did you mean 'bleu'?",
        ),
        (["evaluate", "--nbest", "2"], "nmt evaluate: --nbest: unknown option. "),
        (["translate", "--beam", "2"], "nmt translate: --beam: unknown option. "),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_exit_2(argv: list[str], expected: str, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(expected)
    assert captured.err.count("\n") == 1
    if not expected.endswith(" "):
        assert captured.err == expected + "\n"


@pytest.mark.parametrize("name", ["train", "translate", "evaluate", "inspect"])
def test_flags_that_are_not_given_are_none_or_false(name: str):
    args = parser.parse([name, "config.yaml"] if name == "train" else [name])
    given = vars(args)
    del given["verb"]
    given.pop("config", None)
    assert all(value is None or value is False for value in given.values())


def test_flags_reach_the_verb():
    args = parser.parse(
        ["translate", "--model", "a", "--model", "b", "--exact-stop", "--length-penalty", "-1"]
    )
    assert (args.model, args.exact_stop, args.length_penalty) == (["a", "b"], True, -1.0)
    args = parser.parse(["train", "c.yaml", "--set", "a=1", "--set", "b=-2", "--fresh", "-q"])
    assert (args.config, args.set, args.fresh, args.quiet) == (
        "c.yaml",
        ["a=1", "b=-2"],
        True,
        True,
    )


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (errors.DataError("a.txt: is empty."), 1, "nmt: a.txt: is empty.\n"),
        (errors.ConfigError("--set a=1: unknown key."), 2, "nmt: --set a=1: unknown key.\n"),
        (
            errors.UsageError("--beam-size: wants at least 1."),
            2,
            "nmt inspect: --beam-size: wants at least 1.\n",
        ),
        (KeyboardInterrupt(), 130, "nmt: interrupted\n"),
        (MemoryError(), 1, "nmt: out of memory. Make batches smaller, or take a larger machine.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/y"),
            1,
            "nmt: x/y: No space left on device. Free some space.\n",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes\nBacktrace"),
            1,
            "nmt: out of memory (DefaultCPUAllocator: can't allocate memory: 8 bytes). "
            "Make batches smaller.\n",
        ),
    ],
)
def test_failures_are_one_line_and_an_exit_status(
    error: BaseException, code: int, expected: str, verb, capsys, monkeypatch
):
    monkeypatch.setattr(cli, "_give_up_stdout", lambda: None)
    verb(fail_with(error))
    assert cli.main(["inspect"]) == code
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("error", [RuntimeError("a bug"), AssertionError("a bug"), ValueError("b")])
def test_our_own_bugs_keep_their_traceback(error: Exception, verb):
    verb(fail_with(error))
    with pytest.raises(type(error)):
        cli.main(["inspect"])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], "info\nwarning\n"), (["-q"], "warning\n"), (["-v"], "debug\ninfo\nwarning\n")],
)
def test_messages_go_to_stderr_as_loud_as_asked(flags: list[str], expected: str, verb, capsys):
    def run(args: argparse.Namespace) -> int:
        for level in ("debug", "info", "warning"):
            getattr(logging.getLogger("nmt.some.module"), level)("%s", level)
        return 0

    verb(run)
    for _ in range(2):
        assert cli.main(["inspect", *flags]) == 0
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", expected)
    assert not logging.getLogger("nmt").handlers


def test_quiet_leaves_messages_for_other_handlers(verb, caplog):
    def run(args: argparse.Namespace) -> int:
        logging.getLogger("nmt.some.module").info("for the log")
        return 0

    verb(run)
    cli.main(["inspect", "--quiet"])
    assert "for the log" in caplog.text


@pytest.mark.parametrize(
    ("argv", "stream", "expected"),
    [
        (["translate"], "stdin", "nmt: stdin: is closed. "),
        (["translate", "--input", "x"], "stdout", "nmt: stdout: is closed. "),
        (["inspect"], "stdout", "nmt: stdout: is closed. "),
        (["mbr"], "stdin", "nmt: stdin: is closed. "),
        (["score"], "stdin", "nmt: stdin: is closed. Give lines on stdin, or files with --src "),
        (["score", "--src", "x"], "stdout", "nmt: stdout: is closed. Give somewhere to write to, "),
    ],
)
def test_closed_streams_are_refused_before_any_work(
    argv: list[str], stream: str, expected: str, monkeypatch, capsys
):
    monkeypatch.setattr(sys, stream, None)
    verb = f"nmt.cli.{argv[0]}"
    monkeypatch.delitem(sys.modules, verb, raising=False)
    assert cli.main(argv) == 1
    assert verb not in sys.modules, "the verb, which imports torch"
    assert capsys.readouterr().err.startswith(expected)


def test_closed_stdin_does_not_matter_where_nothing_is_read(verb, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    verb(lambda args: len(sys.stdin.read()))
    assert cli.main(["inspect"]) == 0
    sys.stdin.close()


def shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script, COMMAND[0]], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip


def test_closed_stdin_and_stdout_of_a_process_are_one_line():
    done = shell('"$PYTHON" -m nmt.cli.main translate <&-')
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nmt: stdin: is closed. Give lines on stdin, or a file with --input.\n"
    done = shell('"$PYTHON" -m nmt.cli.main inspect >&-')
    assert (done.returncode, done.stderr) == (
        1,
        "nmt: stdout: is closed. Give somewhere to write to.\n",
    )


VERB = """
import sys, types
from nmt.cli import main
def run(args):
    for _ in range(int(sys.stdin.readline())):
        print("a line that somebody should read")
    return 0
module = types.ModuleType("nmt.cli.inspect")
module.run = run
sys.modules["nmt.cli.inspect"] = module
sys.argv = ["nmt", "inspect"]
%s
"""


@pytest.mark.parametrize("num_lines", [1, 100_000])
@pytest.mark.parametrize("end", ["main.entry()", "sys.exit(main.main())"])
def test_reader_that_goes_away_is_one_line_without_traceback(end: str, num_lines: int):
    process = subprocess.Popen(
        [sys.executable, "-c", VERB % end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stdin.write(b"%d\n" % num_lines)
    process.stdin.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert error == b"nmt: stdout: its reader has gone before all was written.\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
[sys.executable, "-c", VERB % "main.entry()"], input="1\n",
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "nmt: No space left on device. Free some space.\n")


def test_allocator_is_tuned_before_a_verb_that_computes(monkeypatch):
    calls = []
    real_import = cli.importlib.import_module

    def record(name: str) -> types.ModuleType:
        calls.append(name)
        return real_import("nmt.errors")

    from nmt.runtime import allocator

    monkeypatch.setattr(allocator, "tune", lambda: calls.append("tune"))
    monkeypatch.setattr(cli.importlib, "import_module", record)
    with pytest.raises(AttributeError):
        cli.main(["train", "c.yaml"])
    assert calls == ["tune", "nmt.cli.train"]


def test_the_package_runs_as_a_module_without_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nmt", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: nmt")
    assert "nmt.cli.main" in done.stderr
    assert " torch\n" not in done.stderr
