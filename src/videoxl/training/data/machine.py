"""Tells what the machine lacks from what is wrong with a sample, so that no good sample is counted as bad."""

from __future__ import annotations

import errno

from videoxl.errors import SystemResourceError

LACKING = {
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or use fewer data workers",
    errno.ENFILE: "the machine has too many files open: close other programs",
    errno.ENOMEM: "there is no memory left: use fewer data workers, or a smaller batch",
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the quota of the disk is used up: make room",
    errno.EAGAIN: "no further process can be started: raise the limit (ulimit -u), or use fewer data workers",
}


def machine_fault(error: BaseException) -> str | None:
    """A sentence if an error, or its cause, says that the machine lacks something; None if the input is at fault."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, MemoryError):
            return f"{LACKING[errno.ENOMEM]} ({error})"
        if isinstance(cause, OSError) and cause.errno in LACKING:
            return f"{LACKING[cause.errno]} ({error})"
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error) if isinstance(error, SystemResourceError) else None
