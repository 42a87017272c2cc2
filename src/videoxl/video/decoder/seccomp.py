"""A filter of system calls for the decoder process: the kernel refuses every call that is not on a short list.

The list holds what decoding needs on descriptors that are open already: reading, writing, memory, threads, clocks. It
has been tried with glibc. A list of what is forbidden would be longer, and would miss the calls of later kernels.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CALLS: Mapping[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "set_tid_address": (218, 96),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
}
"""Calls that are allowed whatever their arguments: name -> (number on x86-64, number on 64-bit ARM)."""


@dataclass(frozen=True)
class Conditional:
    """A call that is allowed for some values of one argument, of which the lower 32 bits after ``mask`` count."""

    numbers: tuple[int, int]
    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


_THREAD = 0x00010000
_NAMESPACES = 0x7E020080
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_PR_GET_DUMPABLE, _PR_SET_NAME, _PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS, _PR_SET_VMA = 3, 15, 21, 39, 0x53564D41
_F_GETFD, _F_GETFL = 1, 3


def conditional_calls(process: int) -> dict[str, Conditional]:
    """Calls that are allowed for some arguments, in the process of this number."""
    prctl = (_PR_GET_DUMPABLE, _PR_SET_NAME, _PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS, _PR_SET_VMA)
    return {
        "clone": Conditional((56, 220), 0, (_THREAD,), _THREAD | _NAMESPACES),  # threads, not processes
        "prctl": Conditional((157, 167), 0, prctl),
        "prlimit64": Conditional((302, 261), 0, (0,)),  # its own limits
        "tgkill": Conditional((234, 131), 0, (process,)),  # how abort() ends the process
        "fcntl": Conditional((72, 25), 1, (_F_GETFD, _F_GETFL)),
    }


_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> (column of the tables, the kernel's number of its system call convention)."""
_X32 = 0x40000000
"""Set in the numbers of a second convention of x86-64, where other calls have the numbers of the table."""
_FIRST_NEW = 424
"""Calls from this number on, the same on all architectures, look as if the kernel did not know them. The C library then
falls back to older ones: from clone3, whose flags a filter cannot see, to clone."""

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in the kernel's ``struct seccomp_data``."""
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE, _UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction. The last two say how many of the following ones are skipped."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def program(machine: str, process: int) -> bytes:
    """The filter for a machine and a process. Raises ``OSError`` for a machine without a table."""
    if machine not in _ARCHITECTURES or sys.byteorder != "little" or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    column, convention = _ARCHITECTURES[machine]
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, convention, 1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [_step(_IF_AT_LEAST, _X32, 0, 1), _step(_RETURN, _KILL)]
    for numbers in CALLS.values():
        number = numbers[column]
        if number is not None:
            steps += [_step(_IF_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    for call in conditional_calls(process).values():
        check = list(_checked(call))
        steps += [_step(_IF_EQUAL, call.numbers[column], 0, len(check)), *check]
    steps += [_step(_IF_AT_LEAST, _FIRST_NEW, 0, 1), _step(_RETURN, _UNKNOWN), _step(_RETURN, _REFUSE)]
    return b"".join(steps)


def _checked(call: Conditional) -> Iterable[bytes]:
    yield _step(_LOAD, _ARGUMENTS + 8 * call.argument)
    yield _step(_AND, call.mask)
    for value in call.values:
        yield _step(_IF_EQUAL, value, 0, 1)
        yield _step(_RETURN, _ALLOW)
    yield _step(_RETURN, _REFUSE)


class Program(ctypes.Structure):
    """The kernel's ``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    @classmethod
    def of_this_process(cls) -> Program:
        """The filter for the calling process. Raises ``OSError`` where there is none."""
        code = program(os.uname().machine, os.getpid())
        return cls(len(code) // 8, code)
