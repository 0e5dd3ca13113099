"""Several processes translate as one: same lines in the same order, one voice, no hang."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("start_ranks.py")
MESSY = "ba de\n\n  \nki\u2028lo\nmu\x0cna \u0085 po\r\n" + "ba " * 3000 + "\nlast without its end"


@pytest.fixture
def project(learned: Callable[[str], Path], tmp_path: Path) -> Path:
    """The folder of a trained model; the working directory is another one."""
    return learned("transformer") / "run"


@pytest.fixture
def ranks(
    project: Path, rank_environment: dict[str, str]
) -> Callable[..., tuple[list[int | None], list[list[str]]]]:
    """A function that translates on so many ranks: exit statuses, and stderr of each."""

    def run(number: int, *argv: str, stdin: bytes = b"", **job: Any) -> Any:
        command = ["translate", f"--model={project}", "--precision=fp64", *argv]
        values = {"ranks": number, "argv": command, **job}
        done = subprocess.run(
            [sys.executable, SCRIPT, json.dumps(values)],
            env=rank_environment,
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        messages = [Path(f"err.{rank}").read_text().splitlines() for rank in range(number)]
        assert all(Path(f"out.{rank}").read_bytes() == b"" for rank in range(1, number))
        return json.loads(done.stdout), messages

    return run


def corpus(project: Path) -> bytes:
    lines = (project.parent / "train.src").read_bytes().split(b"\n")[:200]
    return b"\n".join(lines) + b"\n" + MESSY.encode() + b" \xff"


@pytest.mark.parametrize("options", [[], ["--nbest=2", "--format=moses", "--mbr=chrf"]])
def test_the_output_is_that_of_one_process(project, nmt, ranks, options):
    source = corpus(project)
    alone = nmt(
        "translate", f"--model={project}", "--precision=fp64", "--threads=1", *options, stdin=source
    )
    assert len(alone.lines) == 207 * (2 if options else 1)
    codes, messages = ranks(3, *options, stdin=source)
    assert codes == [0, 0, 0]
    assert Path("out.0").read_bytes() == alone.out
    assert messages == [alone.messages, [], []], "rank 0 counts for all"
    assert "lines that were longer than the model reads and were cut: 1" in alone.messages
    Path("in").write_bytes(source)
    assert ranks(2, *options, "--input=in", "--output=file")[0] == [0, 0]
    assert Path("file").read_bytes() == alone.out


def test_constraints_and_bad_objects_are_those_of_their_lines(project, nmt, ranks):
    """Whichever rank has a line: phrases by line, messages by number, from rank 0 alone."""
    source = b"".join(line + b"\n" for line in corpus(project).split(b"\n")[:7])
    phrases = b"po\n\nki\tlo\n\nmu\nba\n" + b"ki " * 2000 + b"\n"
    Path("phrases").write_bytes(phrases)
    options = ["--constraints=phrases", "--beam-size=4"]
    command = ["translate", f"--model={project}", "--precision=fp64", "--threads=1"]
    alone = nmt(*command, *options, stdin=source)
    assert any("line 7: constraints: wants" in line for line in alone.messages)
    assert all(word in alone.lines[i].split() for i, word in ((0, "po"), (2, "ki"), (4, "mu")))
    codes, messages = ranks(3, *options, stdin=source)
    assert codes == [0, 0, 0]
    assert Path("out.0").read_bytes() == alone.out
    assert messages == [alone.messages, [], []]
    objects = (
        b'{"text": "ba de", "id": 4}\n{"text": 3, "id": 5}\n{\n\n{"text": "ki", "beam_size": 2}\n'
    )
    alone = nmt(*command, "--format=jsonl", stdin=objects)
    codes, messages = ranks(2, "--format=jsonl", stdin=objects)
    assert Path("out.0").read_bytes() == alone.out
    assert messages == [alone.messages, []] and len(alone.messages) == 3
    Path("phrases").write_bytes(phrases + b"one more\n")
    codes, messages = ranks(2, *options, stdin=source)
    assert codes == [1, 1] and "has more lines than the input (7)" in messages[0][-1]


def test_fewer_lines_than_ranks_and_none_at_all(ranks):
    assert ranks(3, stdin=b"ba de")[0] == [0, 0, 0]
    assert Path("out.0").read_bytes().count(b"\n") == 1
    assert ranks(2, stdin=b"")[0] == [0, 0]
    assert Path("out.0").read_bytes() == b""


def test_lines_from_an_open_pipe_are_answered_as_they_come(project, rank_environment):
    os.mkfifo("out.0")
    command = ["translate", f"--model={project}", "--precision=fp64"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, json.dumps({"ranks": 2, "argv": command})],
        env=rank_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        with open("out.0", "rb") as answers:
            for line in (b"ba\n", b"de ki\nlo\n"):
                process.stdin.write(line)
                process.stdin.flush()
                for _ in range(line.count(b"\n")):
                    assert answers.readline().endswith(b"\n")
            process.stdin.close()
            assert answers.read() == b""
        assert json.loads(process.stdout.read()) == [0, 0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_killed_rank_ends_the_others_and_leaves_no_half_file(project, ranks):
    Path("in").write_bytes(corpus(project))
    for rank in (0, 1):
        faults = [[rank, 0, "lines-KILL"]]
        codes, messages = ranks(2, "--input=in", "--output=file", faults=faults)
        assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 1)
        (message,) = messages[1 - rank]
        assert message.startswith(f"nmt: rank {1 - rank} of 2: has lost another process")
        assert message.endswith("The output is incomplete. Run the same command again.")
        assert not Path("file").exists()


def test_a_failure_is_one_line_of_the_rank_that_failed(project, ranks):
    codes, messages = ranks(2, stdin=b"ba\nde\n", faults=[[1, 0, "lines-fail"]])
    assert codes == [1, 1]
    assert messages == [[], ["nmt: the data of this rank have gone"]]
    codes, messages = ranks(2, "--input=nowhere")
    assert codes == [1, 1]
    assert len(messages[0]) == 1 and "nowhere" in messages[0][0]
    assert messages[1] == []
    codes, messages = ranks(2, "--beam-size=0")
    assert codes == [2, 2]
    assert [len(lines) for lines in messages] == [1, 0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_one_line(ranks):
    os.symlink("/dev/full", "out.0")
    codes, messages = ranks(2, stdin=b"ba\n")
    assert codes == [1, 1]
    assert len(messages[0]) == 1 and messages[0][0].startswith("nmt: stdout: cannot be written")
    assert messages[1] == []
