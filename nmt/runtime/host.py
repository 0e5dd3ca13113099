"""What is known of this machine without torch."""

import os


def total_memory() -> int | None:
    """Returns the memory of this machine in bytes, or None where that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
