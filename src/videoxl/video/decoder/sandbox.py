"""Takes rights away from the decoder process, for good, before it sees a byte of a file.

A hostile file may take a decoder over. What it then can do is send wrong pictures: it keeps three descriptors (the
file to read, commands to read, answers to write) and cannot open, start, signal or reach anything else. Each measure
stands for itself. Where a system lacks one, the others hold, and ``videoxl info --system`` says which.

Only Linux has Landlock, seccomp and the rest of them; elsewhere the limits on resources remain.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

from videoxl.video.decoder import seccomp

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 3, 4, 22, 38
_SECCOMP_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_ASK_VERSION = 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Landlock ABI -> how many kinds of access to files it knows; 5 is the last that added one which is used here."""
_NETWORK_FROM, _SCOPES_FROM = 4, 6
_NETWORK_RIGHTS, _SCOPES = 0b11, 0b11
"""Binding and connecting TCP sockets; abstract sockets and signals to processes outside."""


@dataclass(frozen=True)
class Measure:
    """One way in which the decoder process is confined."""

    name: str
    holds: bool
    detail: str
    """What it does, or why it does not hold."""


def hide() -> None:
    """Let no other process of this user read the memory of this one, nor of those forked from it."""
    with contextlib.suppress(OSError):  # enter() tries again, and says why not
        _prctl(_PR_SET_DUMPABLE, 0)


def enter() -> list[Measure]:
    """Give up all rights that decoding does not need. Call it with one thread: later ones inherit what it does."""
    return [_tried(name, take_away) for name, take_away in _MEASURES.items()]


def _tried(name: str, take_away: Callable[[], str]) -> Measure:
    try:
        return Measure(name, True, take_away())
    except OSError as error:
        return Measure(name, False, error.strerror or str(error))


def _stay_hidden() -> str:
    if _prctl(_PR_GET_DUMPABLE, 0) != 0:
        _prctl(_PR_SET_DUMPABLE, 0)
    return "other processes of this user cannot read its memory"


def _refuse_privileges() -> str:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return "no program it might start could have more rights"


def _drop_capabilities() -> str:
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _check(_linux_function("capset")(header, none))
    return "none is left, even for root"


def _open_nothing() -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, 1))  # poll() may watch as many as this
    return "no further one can be opened"


def _landlock() -> str:
    syscall = _linux_function("syscall")
    abi = _check(syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION))
    files = (1 << _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))]) - 1
    network = _NETWORK_RIGHTS if abi >= _NETWORK_FROM else 0
    scopes = _SCOPES if abi >= _SCOPES_FROM else 0
    handled = (ctypes.c_uint64 * 3)(files, network, scopes)
    ruleset = _check(syscall(_CREATE_RULESET, handled, ctypes.c_size_t(ctypes.sizeof(handled)), 0))
    try:
        _check(syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    refused = ["files", *(["TCP"] if network else []), *(["abstract sockets", "signals to others"] if scopes else [])]
    return f"ABI {abi} refuses {', '.join(refused)}"


def _filter_calls() -> str:
    if sys.platform != "linux":
        raise _not_linux()
    program = seccomp.Program.of_this_process()
    _prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(program))
    calls = len(seccomp.CALLS) + len(seccomp.conditional_calls(0))
    return f"refuses all but {calls} system calls"


# Landlock needs a descriptor for a moment, and the filter refuses what the others do.
_MEASURES: dict[str, Callable[[], str]] = {
    "no_new_privs": _refuse_privileges,
    "capabilities": _drop_capabilities,
    "not_dumpable": _stay_hidden,
    "landlock": _landlock,
    "descriptors": _open_nothing,
    "seccomp": _filter_calls,
}


def _prctl(option: int, *arguments: object) -> int:
    values = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    rest = [ctypes.c_ulong(0)] * (4 - len(values))
    return _check(_linux_function("prctl")(ctypes.c_int(option), *values, *rest))


def _linux_function(name: str) -> Callable[..., int]:
    if sys.platform != "linux":
        raise _not_linux()
    function: Callable[..., int] = getattr(_LIBC, name)
    return function


def _not_linux() -> OSError:
    return OSError(errno.ENOSYS, f"{sys.platform} does not have it")


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
