"""How the processes of a run find each other."""

import datetime
import time
import uuid

from torch.distributed import distributed_c10d as c10d

# How long a process waits for the others to come up.
PATIENCE = datetime.timedelta(minutes=10)

# Seconds between two looks for processes that are still missing at the start.
POLL_SECONDS = 0.02


def fresh_store(rank: int, size: int) -> c10d.Store:
    """Returns the store by which the processes find each other, empty.

    torchrun keeps its store over restarts, with the addresses of processes that are gone, and no number
    that it gives is new with each start and the same on all machines. So rank 0 makes up a name, and
    each of the others asks for it under a name of its own, which no earlier process can have answered.

    Raises:
        RuntimeError: (torch's) some process did not come.
    """
    store, _, _ = next(c10d.rendezvous("env://", timeout=PATIENCE))  # type: ignore[attr-defined]
    own = uuid.uuid4().hex
    if rank != 0:
        store.set(f"nmt/question/{rank}", own)
        store.wait([f"nmt/answer/{own}"], PATIENCE)
        name = store.get(f"nmt/answer/{own}").decode()
        store.set(f"nmt/{name}/{rank}", "here")
        return c10d.PrefixStore(f"nmt/{name}", store)
    missing = set(range(1, size))
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while missing:
        for other in sorted(missing):
            question = f"nmt/question/{other}"
            if store.check([question]):
                store.set(f"nmt/answer/{store.get(question).decode()}", own)
            if store.check([f"nmt/{own}/{other}"]):
                missing.remove(other)
        if time.monotonic() > deadline:
            raise RuntimeError(f"rank {min(missing)} did not come")
        time.sleep(POLL_SECONDS)
    return c10d.PrefixStore(f"nmt/{own}", store)
