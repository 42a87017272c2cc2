"""The sandbox of the decoder process, tried from inside by a decoder that was taken over."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
from functools import cache

import pytest

from tests import media
from tests.video import taken_over
from tests.video.taken_over_server import TAKE_OVER, boot
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video import VideoLimits, open_video
from videoxl.video.decoder import launcher, seccomp
from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.confinement import confinement
from videoxl.video.decoder.messages import OpenCommand
from videoxl.video.decoder.sandbox import Measure

MEASURES = ("no_new_privs", "capabilities", "not_dumpable", "landlock", "descriptors", "seccomp")
REFUSED = {"EPERM", "EACCES", "EMFILE", "ENOSYS"}
pytestmark = pytest.mark.usefixtures("usual_server_afterwards")


@cache
def usual_confinement() -> dict[str, Measure]:
    boot()
    return {measure.name: measure for measure in confinement()}


def try_out(tmp_path, *, without=(), parent=(), files=(), general=()) -> dict[str, object]:
    """What became of each attempt, made in the process of a decoder. Measures named in ``without`` are left out."""
    boot(TAKE_OVER.format(without=tuple(without)))
    secret = ctypes.create_string_buffer(taken_over.SECRET)
    (tmp_path / "secret").write_bytes(taken_over.SECRET)
    order = {
        "pid": os.getpid(),
        "address": ctypes.addressof(secret),
        "path": str(tmp_path / "secret"),
        "parent": list(parent),
        "files": list(files),
        "general": list(general),
    }
    (tmp_path / "order").write_text(json.dumps(order))
    fd = os.open(tmp_path / "order", os.O_RDONLY)
    decoder = DecoderProcess(fd, "order", VideoLimits(stall_seconds=20))
    try:
        decoder.request(OpenCommand(id=0, stream=None, reader="pyav", limits=VideoLimits()))
        with pytest.raises(VideoError) as caught:
            decoder.receive(0)
        if caught.value.code != "undecodable":
            raise caught.value
        return json.loads(str(caught.value).removeprefix("order: "))
    finally:
        decoder.close()
        os.close(fd)
        assert sorted(os.listdir(tmp_path)) == ["order", "secret"]
        assert (tmp_path / "secret").read_bytes() == taken_over.SECRET


def needs(*names: str) -> None:
    """Skip where this system lacks a measure; fail instead where everything is meant to be there."""
    missing = [f"{m.name}: {m.detail}" for m in usual_confinement().values() if m.name in names and not m.holds]
    if missing:
        message = f"this system lacks {'; '.join(missing)}"
        pytest.fail(message) if os.environ.get("VIDEOXL_REQUIRE_ALL") == "1" else pytest.skip(message)


def test_everything_is_refused(tmp_path):
    needs(*MEASURES)
    results = try_out(tmp_path, parent=taken_over.PARENT)
    results |= try_out(tmp_path, files=taken_over.FILES)
    others = list(taken_over.OTHERS)
    results |= try_out(tmp_path, files=others[::2]) | try_out(tmp_path, files=others[1::2])
    assert {name: end for name, end in results.items() if end not in REFUSED} == {}
    assert len(results) == len(taken_over.PARENT) + len(taken_over.FILES) + len(taken_over.OTHERS)


def test_the_same_attempts_succeed_without_a_sandbox(tmp_path):
    """Otherwise the refusals above would say nothing."""
    harmless = ["read", "list", "look at a path", "make a socket", "start a process", "open a pipe", "be dumpable"]
    parent = ["signal", "signal a thread", "signal by descriptor", "read memory", "read the memory file"]
    if os.geteuid() != 0:
        parent = parent[:3]  # a security module may forbid to read a parent's memory
    results = try_out(tmp_path, without=MEASURES, parent=parent, files=harmless)
    assert {name: end for name, end in results.items() if not str(end).startswith("DONE")} == {}
    if os.geteuid() == 0:
        assert taken_over.SECRET.decode() in str(results["read memory"])


def test_all_other_system_calls_are_refused(tmp_path):
    """Among them are io_uring, bpf, keyctl, userfaultfd, perf_event_open, personality and those not invented yet."""
    needs("seccomp")
    ends = try_out(tmp_path, general=[("other calls", "")])["other calls"]
    assert set(ends) == {"EPERM", "ENOSYS"}
    assert ends["EPERM"][0] > 300
    assert ends["ENOSYS"][1] >= 424


def test_landlock_refuses_files_by_itself(tmp_path):
    needs("landlock")
    without = ("seccomp", "descriptors", "capabilities", "not_dumpable")
    results = try_out(tmp_path, without=without, files=taken_over.FILES)
    assert {name: end for name, end in results.items() if end not in ("EACCES", "EPERM")} == {}


def test_landlock_refuses_other_processes_and_the_network_by_itself(tmp_path):
    needs("landlock")
    abi = int(usual_confinement()["landlock"].detail.split()[1])
    if abi < 6 and os.environ.get("VIDEOXL_REQUIRE_ALL") != "1":
        pytest.skip(f"Landlock ABI {abi} has no scopes")
    parent = ["signal", "signal a thread", "trace", "read memory", "read the memory file", "read the environment"]
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0videoxl-{os.getpid()}")
        local.listen()
        for address in (str(tcp.getsockname()[1]), f"\0videoxl-{os.getpid()}"):
            results = try_out(
                tmp_path, without=("seccomp", "descriptors"), parent=parent, general=[("connect", address)]
            )
            assert {name: end for name, end in results.items() if end not in ("EACCES", "EPERM")} == {}


def test_the_limit_on_descriptors_refuses_files_and_sockets_by_itself(tmp_path):
    """It holds on every system."""
    files = ["read", "write", "list", "make", "make a socket", "make a socket pair", "open a pipe"]
    results = try_out(tmp_path, without=("seccomp", "landlock"), files=[*files, "lift the limit on descriptors"])
    assert results.pop("lift the limit on descriptors") == "EPERM"
    assert set(results.values()) == {"EMFILE"}


def test_what_decoding_needs_still_works(tmp_path):
    needs(*MEASURES)
    assert try_out(tmp_path, general=[("works", "")])["works"] == {
        "threads": 4,
        "descriptors": 6,  # three of them are /dev/null
        "environment": sorted({*launcher._ONE_THREAD, *(set(launcher._KEPT) & set(os.environ))}),
        "torch": [],
        "dumpable": 0,
        "seccomp": 2,
        "no_new_privs": 1,
    }


def test_tokens_of_the_program_are_not_in_its_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen = try_out(tmp_path, general=[("works", "")])["works"]["environment"]
    assert not {"HF_TOKEN", "HOME", "PATH", "USER"} & set(seen)


@pytest.mark.parametrize(("how", "signal"), [("abort", 6), ("crash", 11), ("x32", 31)])
def test_how_it_dies_is_still_said(tmp_path, how, signal):
    if how == "x32":
        needs("seccomp")
        if os.uname().machine != "x86_64":
            how, signal = "crash", 11
    with pytest.raises(VideoError, match=f"killed by signal {signal} ") as caught:
        try_out(tmp_path, general=[(how, "")])
    assert caught.value.code == "decoder_died"


def test_the_confinement_is_told():
    measures = usual_confinement()
    assert {"memory", "processor_time", "files_written", *MEASURES} == set(measures)
    needs(*MEASURES)
    assert "ABI" in measures["landlock"].detail
    assert not {m.name: m for m in confinement("torchcodec")}["memory"].holds


def test_where_the_system_has_none_of_it_videos_are_read(plain):
    """As on other systems, on old kernels and in containers that forbid it."""
    boot("""
from videoxl.video.decoder import sandbox
def lacking():
    raise OSError(95, "Operation not supported")
sandbox._MEASURES = dict.fromkeys(sandbox._MEASURES, lacking)
""")
    missing = {m.name: m.detail for m in confinement() if not m.holds}
    assert missing == dict.fromkeys(MEASURES, "Operation not supported")
    with open_video(plain) as source:
        assert media.numbers_of(source.read(source.select(Sampling(fps=1000)), resize=None)) == list(range(100))


def test_a_machine_without_a_list_of_calls():
    with pytest.raises(OSError, match="no list of system calls for sparc64"):
        seccomp.program("sparc64", 1)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_by_a_model_of_the_kernel(machine):
    """Runs the program step by step, so that both architectures are tested on either."""
    column, convention = seccomp._ARCHITECTURES[machine]
    program = seccomp.program(machine, 4242)

    def verdict(number: int, *arguments: int, architecture: int = convention) -> int:
        return run_filter(
            program, struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
        )

    allowed = {numbers[column] for numbers in seccomp.CALLS.values()} - {None}
    conditional = {name: call.numbers[column] for name, call in seccomp.conditional_calls(4242).items()}
    for number in range(600):
        if number not in conditional.values():
            refused = seccomp._UNKNOWN if number >= 424 else seccomp._REFUSE
            assert verdict(number) == (seccomp._ALLOW if number in allowed else refused)
        assert verdict(number, architecture=0x40000003) == seccomp._KILL  # 32-bit x86
    for name, good, bad in (
        ("clone", (0x3D0F00,), (0x1200011,)),  # pthread_create; fork
        ("prctl", (15,), (22,)),  # set a name; set a filter
        ("prlimit64", (0,), (1,)),
        ("tgkill", (4242, 7, 6), (4243, 7, 6)),
        ("fcntl", (5, 3), (5, 8)),  # F_GETFL; F_SETOWN
    ):
        assert verdict(conditional[name], *good) == seccomp._ALLOW
        assert verdict(conditional[name], *bad) == seccomp._REFUSE
    assert verdict(conditional["clone"], 0x3D0F00 | 0x10000000) == seccomp._REFUSE  # a thread in another user namespace
    if machine == "x86_64":
        assert verdict(0x40000000) == seccomp._KILL


def run_filter(program: bytes, data: bytes) -> int:
    """What a program of classic BPF returns for these data."""
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == seccomp._RETURN:
            return value
        if code == seccomp._LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == seccomp._AND:
            accumulator &= value
        else:
            holds = accumulator == value if code == seccomp._IF_EQUAL else accumulator >= value
            at += if_true if holds else if_false
