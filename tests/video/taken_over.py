"""Loaded into the fork server by tests: a decoder that a hostile file has taken over, from its first byte on.

Everything before the file is opened is the real decoder process. The "file" holds JSON: what to try.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable

from videoxl.errors import VideoError
from videoxl.video.decoder import sandbox, seccomp, worker
from videoxl.video.decoder.channel import Channel
from videoxl.video.decoder.messages import Command

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE = {"x86_64": 56, "aarch64": 220}
SECRET = b"a secret of the program"


def syscall(number: int, *arguments: object) -> int:
    """A system call by its number. Raises ``OSError``."""
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def libc(name: str, *arguments: object) -> int:
    """A function of the C library that returns -1 when it fails. Raises ``OSError``."""
    result = getattr(LIBC, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def fork() -> int:
    """Start a process, which ends at once if that works."""
    process = os.fork()
    if process == 0:
        os._exit(0)
    return process


def connect(address: str | tuple[str, int]) -> None:
    """Connect to a listening socket: TCP, or, by a name, one of this machine."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as end:
        end.connect(address)


def read_memory(process: int, address: int) -> bytes:
    """Copy memory of another process."""
    into = ctypes.create_string_buffer(len(SECRET))
    local = (ctypes.c_size_t * 2)(ctypes.addressof(into), len(SECRET))
    remote = (ctypes.c_size_t * 2)(address, len(SECRET))
    libc("process_vm_readv", process, local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0))
    return into.raw


def read_memory_file(process: int, address: int) -> bytes:
    """Copy memory of another process through its file."""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as file:
        file.seek(address)
        return file.read(len(SECRET))


def write_file(path: str) -> None:
    """Make a file."""
    with open(path, "wb") as file:
        file.write(b"x")


def lift(what: int) -> int:
    """Raise a limit of this process as far as it goes."""
    return libc("setrlimit", what, (ctypes.c_ulong * 2)(2**20, 2**63))


def new_namespace_thread(_: str) -> int:
    """Start a thread that leaves the namespace of files."""
    return syscall(CLONE[os.uname().machine], ctypes.c_ulong(0x00010000 | 0x00020000), None, None, None, None)


PARENT: dict[str, Callable[..., object]] = {
    "signal": lambda parent, _: os.kill(parent, 0),
    "signal a thread": lambda parent, _: libc("tgkill", parent, parent, 0),
    "signal by descriptor": lambda parent, _: os.pidfd_open(parent),
    "trace": lambda parent, _: libc("ptrace", 0x4206, parent, None, None),  # PTRACE_SEIZE
    "read memory": read_memory,
    "read the memory file": read_memory_file,
    "read the environment": lambda parent, _: open(f"/proc/{parent}/environ", "rb").read(),  # noqa: SIM115
    "change limits": lambda parent, _: resource.prlimit(parent, resource.RLIMIT_CORE),
    "change priority": lambda parent, _: os.setpriority(os.PRIO_PROCESS, parent, 19),
    "move to another core": lambda parent, _: os.sched_setaffinity(parent, {0}),
}
"""What is tried with the number of the parent and the address of a secret in it."""

FILES: dict[str, Callable[[str], object]] = {
    "read": lambda path: open(path, "rb").read(),  # noqa: SIM115
    "list": lambda path: os.listdir(os.path.dirname(path)),
    "write": lambda path: open(path, "r+b").write(b"x"),  # noqa: SIM115
    "make": lambda path: write_file(path + ".new"),
    "unlink": os.unlink,
    "rename": lambda path: os.rename(path, path + ".new"),
    "link": lambda path: os.link(path, path + ".new"),
    "symlink": lambda path: os.symlink(path, path + ".new"),
    "mkdir": lambda path: os.mkdir(path + ".new"),
    "mkfifo": lambda path: os.mkfifo(path + ".new"),
    "truncate": lambda path: os.truncate(path, 0),
    "execute": lambda path: os.execv("/bin/true", ["true"]),
    "read the C library": lambda path: open("/etc/passwd", "rb").read(),  # noqa: SIM115
    "read its own memory map": lambda path: open("/proc/self/maps", "rb").read(),  # noqa: SIM115
}
"""What Landlock alone refuses, with the path of a file."""

OTHERS: dict[str, Callable[[str], object]] = {
    "look at a path": os.stat,
    "change the mode": lambda path: os.chmod(path, 0o777),
    "change the time": lambda path: os.utime(path),
    "change the folder": lambda path: os.chdir("/tmp"),
    "make a socket": lambda path: socket.socket(socket.AF_INET),
    "make a local socket": lambda path: socket.socket(socket.AF_UNIX),
    "make a socket pair": lambda path: socket.socketpair(),
    "start a process": lambda path: fork(),
    "start a program": lambda path: os.posix_spawn("/bin/true", ["true"], {}),
    "start a thread in another namespace": new_namespace_thread,
    "leave the namespace": lambda path: libc("unshare", 0x00020000),
    "mount": lambda path: libc("mount", b"none", b"/mnt", b"tmpfs", ctypes.c_ulong(0), None),
    "become another user": lambda path: os.setresuid(1, 1, 1),
    "open a pipe": lambda path: os.pipe(),
    "duplicate a descriptor": lambda path: os.dup(0),
    "be dumpable": lambda path: libc("prctl", 4, ctypes.c_ulong(1)),
    "get a capability": lambda path: libc(
        "capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[2**32 - 1] * 6)
    ),
    "lift the limit on memory": lambda path: lift(resource.RLIMIT_AS),
    "lift the limit on descriptors": lambda path: lift(resource.RLIMIT_NOFILE),
    "control a terminal": lambda path: libc("ioctl", 0, ctypes.c_ulong(0x5412), b"x"),  # TIOCSTI
    "direct a signal": lambda path: libc("fcntl", 0, 8, os.getppid()),  # F_SETOWN
}
"""What needs the filter of system calls, or several measures together."""


def other_calls(_: str) -> dict[str, list[int]]:
    """Call every number that is not on the list. Returns [how many, the lowest] for each way in which they ended."""
    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    allowed = {numbers[column] for numbers in seccomp.CALLS.values()}
    allowed |= {call.numbers[column] for call in seccomp.conditional_calls(0).values()}
    if column == 0:
        allowed |= {335, 336}  # the kernel's own, for tracing: no filter sees them, and all others that call them die
    ends: dict[str, list[int]] = {}
    for number in sorted({*range(600), 1000, 2**20} - allowed):
        try:
            syscall(number, 0, 0, 0, 0, 0, 0)
            end = "done"
        except OSError as error:
            end = errno.errorcode[error.errno]
        ends.setdefault(end, []).append(number)
    return {end: [len(numbers), min(numbers)] for end, numbers in ends.items()}


def x32_call(_: str) -> None:
    """Call getpid() by its number in the x32 convention."""
    syscall(0x40000000 + 39)


def what_still_works(_: str) -> dict[str, object]:
    """What decoding needs, and what the process can see of itself."""
    ran: list[int] = []
    threads = [threading.Thread(target=ran.append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mmap.mmap(-1, 2**24).close()
    prctl = {"dumpable": 3, "seccomp": 21, "no_new_privs": 39}
    return {
        "threads": len(ran),
        "descriptors": len([number for number in range(1024) if LIBC.fcntl(number, 1) >= 0]),  # F_GETFD
        "environment": sorted(os.environ),
        "torch": [name for name in sys.modules if "torch" in name and name != "videoxl.video.decoder.torchcodec"],
        **{name: LIBC.prctl(option, *[ctypes.c_ulong(0)] * 4) for name, option in prctl.items()},
    }


def abort(_: str) -> None:
    """End as a failed assertion of FFmpeg does."""
    LIBC.abort()


def crash(_: str) -> None:
    """End as a wild pointer does."""
    ctypes.string_at(0)


GENERAL: dict[str, Callable[[str], object]] = {
    "other calls": other_calls,
    "x32": x32_call,
    "works": what_still_works,
    "abort": abort,
    "crash": crash,
    "connect": lambda address: connect(address if address.startswith("\0") else ("127.0.0.1", int(address))),
}


def outcome(attempt: Callable[[], object]) -> object:
    """What an attempt returned, or the name of the error number it failed with."""
    try:
        result = attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return result if isinstance(result, dict) else f"DONE: {result!r:.60}"


class KeptChannel(Channel):
    """A channel past which one can write."""

    def __init__(self, commands_fd: int, answers_fd: int, first: tuple[Command, bytearray]) -> None:
        self.answers_fd = answers_fd
        super().__init__(commands_fd, answers_fd, first)


class LyingSession:
    """Answers with whatever bytes the file says, some of them slowly."""

    def __init__(self, fd: int, order: dict[str, list[str]]) -> None:
        self._fd = fd
        self._order = order

    def describe(self) -> None:
        self._write(self._order["to open"])

    def read(self, _: object) -> None:
        self._write(self._order["to read"])

    def _write(self, pieces: list[str]) -> None:
        for piece in pieces:
            if piece.startswith("wait "):
                time.sleep(float(piece.removeprefix("wait ")))
            else:
                view = memoryview(base64.b64decode(piece))
                while view:
                    view = view[os.write(self._fd, view) :]


def open_session(channel: KeptChannel, fd: int, *_: object) -> LyingSession:
    """In place of the function that opens a file: try what the file says, and report it as an error."""
    order = json.loads(os.pread(fd, 2**24, 0))
    if "to open" in order:
        return LyingSession(channel.answers_fd, order)
    results = {}
    for name in order["parent"]:
        results[name] = outcome(lambda name=name: PARENT[name](order["pid"], order["address"]))
    for name in order["files"]:
        results[name] = outcome(lambda name=name: {**FILES, **OTHERS}[name](order["path"]))
    for name, value in order["general"]:
        results[name] = outcome(lambda name=name, value=value: GENERAL[name](value))
    raise VideoError(json.dumps(results), code="undecodable")


def take_over(without: tuple[str, ...] = ()) -> None:
    """Put this module in place of the decoder, with some measures left out, so that others are seen to hold."""
    worker.open_session = open_session
    worker.Channel = KeptChannel
    for name in without:
        del sandbox._MEASURES[name]
