"""The seed of each update: what random states would otherwise have to be stored for."""

import hashlib

# torch takes 64 bits and Python's range of them is signed in places, so one bit stays free.
BITS = 63


def of_update(seed: int, update: int, *, rank: int = 0, attempt: int = 0) -> int:
    """Returns the seed of everything random in one update.

    It is a hash, since generators that are seeded with neighbouring numbers, or with sums in which
    (seed 1, update 2) meets (seed 2, update 1), would draw alike.

    Args:
        seed: of the configuration.
        update: counted from 1. An update that was skipped keeps its number, so that the next one
            draws other masks.
        rank: of the process; each draws for its own part of the batch.
        attempt: how often the run went back to a checkpoint. Updates that it then repeats draw
            other masks, since the old ones may be what made a number overflow.

    Returns:
        A number in [0, 2**63).
    """
    text = f"update {seed} {update} {rank} {attempt}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> (64 - BITS)
