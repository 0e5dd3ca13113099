"""Starts the ranks of a command by fork, at the price of one import of torch, with faults on request.

Not a test; `test_ranks.py` runs it with a job in JSON as its only argument:

    ranks   how many
    argv    the command line, without the program
    extra   more arguments of one rank, by its number
    counts_bytes  whether each rank writes into `bytes.RANK` of the run folder what it has in tensors
            after an update (which is all that there is: some tests are about what is not kept)
    faults  [rank, update, kind], each once: what happens when that rank computes that update, or,
            where kind begins with `lines`, translates its part of a chunk with that number, or with
            `share`, is amid the optimiser's step of its update of that number since it was started

It prints the exit statuses in JSON, and leaves what each rank said in `err.0`, `err.1` and so on.
"""

import contextlib
import gc
import itertools
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch

from nmt import errors
from nmt.cli import jobs, main, train, translate  # noqa: F401 (imported once, for all ranks)
from nmt.data import batches
from nmt.inference import translator
from nmt.runtime import distributed, seeds
from nmt.training import fitting, update

DEADLINE = 60.0


def free_port() -> int:
    """Returns a port that nobody has, not even by chance: the system hands out higher ones."""
    port = 10_000 + os.getpid() % 20_000
    while True:
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
        port += 1


def install(rank: int, faults: list) -> None:
    due = {seeds.of_update(1, number, rank=rank): kind for of, number, kind in faults if of == rank}
    original = update.summed_loss

    def faulty(model, piece, *weights):
        # Validation computes losses, too, under whatever seed was set last.
        kind = due.pop(torch.initial_seed(), None) if model.training else None
        if kind in {"KILL", "TERM"}:
            os.kill(os.getpid(), getattr(signal, f"SIG{kind}"))
        if kind == "memory":
            raise torch.OutOfMemoryError("injected")
        total, nll = original(model, piece, *weights)
        return (total * float("nan") if kind == "nan" else total), nll

    update.summed_loss = faulty
    honest, calls = translator.Translator.answer, itertools.count()

    def faulty_answer(machine, asked):
        number = next(calls)
        if [rank, number, "lines-KILL"] in faults:
            os.kill(os.getpid(), signal.SIGKILL)
        if [rank, number, "lines-fail"] in faults:
            fail_to_read()
        return honest(machine, asked)

    translator.Translator.answer = faulty_answer
    share, shares = distributed.Ranks.share, itertools.count(1)

    def faulty_share(group, tensors, owners):
        if [rank, next(shares), "share-KILL"] in faults:
            os.kill(os.getpid(), signal.SIGKILL)
        share(group, tensors, owners)

    distributed.Ranks.share = faulty_share
    if [0, 0, "disk"] in faults and rank == 0:
        jobs.Job._publish = fail_to_write
    if [1, 0, "fit"] in faults and rank == 1:
        fitting.find_device_tokens = fail_to_fit
    if [1, 0, "data"] in faults and rank == 1:
        batches.Collator.collate = fail_to_read


def count_bytes(rank: int) -> None:
    """Has each update followed by a count of all that live tensors of float numbers hold."""
    original = update.Updater.update

    def counted(updater, *args, **kwargs):
        result = original(updater, *args, **kwargs)
        gc.collect()
        storages = {}
        for thing in gc.get_objects():
            # A DTensor has no memory of its own: its part is a tensor, too.
            if type(thing) in {torch.Tensor, torch.nn.Parameter} and thing.is_floating_point():
                storage = thing.untyped_storage()
                if thing.device.type == "cpu":
                    storages[storage.data_ptr()] = storage.nbytes()
        (Path(job_folder()) / f"bytes.{rank}").write_text(json.dumps(sum(storages.values())))
        return result

    update.Updater.update = counted


def job_folder() -> str:
    (option,) = [text for text in sys.argv[1:] if "run_dir=" in text]
    return next(text for text in json.loads(option)["argv"] if "run_dir=" in text).split("=")[-1]


def fail_to_fit(*args, **kwargs):
    raise errors.TrainingError("fit 1: a single pair does not")


def fail_to_write(*args, **kwargs):
    raise errors.FileError("the disk is full")


def fail_to_read(*args, **kwargs):
    raise errors.DataError("the data of this rank have gone")


def start(job: dict, rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(job["ranks"]))
        os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        descriptor = os.open(f"err.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(f"out.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        install(rank, job.get("faults", []))
        if job.get("counts_bytes"):
            count_bytes(rank)
        code = main.main([*job["argv"], *job.get("extra", {}).get(str(rank), [])])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(children: list[int]) -> list[int | None]:
    """Returns the exit status of each, None for one that had to be killed."""
    codes: dict[int, int | None] = {}
    deadline = time.monotonic() + DEADLINE
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                codes[child] = None
        time.sleep(0.01)
    return [codes[child] for child in children]


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    if "--set=training.sharding=full" in job["argv"]:
        from nmt.training import sharding  # noqa: F401 (once, for all ranks)
    Path("err.0").unlink(missing_ok=True)
    port = free_port()
    print(json.dumps(wait([start(job, rank, port) for rank in range(job["ranks"])])))
