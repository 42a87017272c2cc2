"""``videoxl serve``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.index import KeepOptions
from videoxl.cli.options import download, download_speech_model
from videoxl.cli.output import tell
from videoxl.cli.transcribe import SPEECH_DEFAULT
from videoxl.config import DEFAULT_MODEL
from videoxl.errors import MissingDependencyError

if TYPE_CHECKING:
    from videoxl.server.settings import IndexSettings

GIB = 2**30


def serve(
    data: Annotated[str, typer.Option(help="Folder of files and memories; made where it is missing.")] = "videoxl-data",
    model: Annotated[str, typer.Option("--model", "-m", help="Model id, folder, or tiny.")] = DEFAULT_MODEL,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback needs --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="A key that clients must give; repeatable. VIDEOXL_API_KEY may hold several, with commas."),
    ] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="A name under which the server is asked.")] = None,
    allow_media_domain: Annotated[
        list[str] | None,
        typer.Option(
            help="Fetch videos that are named by an https URL from this host, such as *.example.org; repeatable."
        ),
    ] = None,
    allowed_media_path: Annotated[
        list[str] | None, typer.Option(help="Take videos that are named by a file:// URL from this folder; repeatable.")
    ] = None,
    allow_stream: Annotated[
        list[str] | None,
        typer.Option(
            help="Watch streams of this host (cam.local:8554), or whose address begins so (rtsp://cam.local/live); "
            "repeatable."
        ),
    ] = None,
    max_streams: Annotated[int, typer.Option(help="Streams that are watched at a time.", min=1)] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    devices: Annotated[
        str | None, typer.Option(help="One worker process on each of these devices: cuda:0,cuda:1.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Worker processes, one on each GPU; on the CPU where there is none.", min=1, max=64)
    ] = 1,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="int8 or nf4.")] = None,
    shared: Annotated[
        str | None,
        typer.Option(help="A folder or storage (s3://...) in which several servers keep memories for one another."),
    ] = None,
    hot_gb: Annotated[float, typer.Option(help="Memories that stay loaded in each worker, in GiB.", min=0)] = 8.0,
    max_file_gb: Annotated[float, typer.Option(help="Largest file, in GiB.", min=0.001)] = 32.0,
    max_stored_gb: Annotated[float, typer.Option(help="Files and memories of one key, in GiB.", min=0.001)] = 1024.0,
    max_frames: Annotated[int, typer.Option(help="Most frames of a memory.", min=1)] = 10_000,
    max_hours: Annotated[float, typer.Option(help="Longest video.", min=0.001)] = 24.0,
    max_waiting: Annotated[int, typer.Option(help="Questions that wait at most.", min=1)] = 64,
    index: Annotated[bool, typer.Option("--index/--no-index", help="Keep an index of what comes, for search.")] = True,
    meaning: Annotated[
        str,
        typer.Option(help="A sentence model for search; auto: all-MiniLM-L6-v2 if it is in the cache; none."),
    ] = "auto",
    frames: Annotated[
        str | None, typer.Option(help="A SigLIP model: memories are read with it, and found by their pictures.")
    ] = None,
    transcribe: Annotated[
        bool, typer.Option("--transcribe", help="Write down what is said, for search (needs the extra asr).")
    ] = False,
    speech_model: Annotated[
        str, typer.Option(help="With --transcribe: tiny, base, small ..., a folder, or a Hub id.")
    ] = SPEECH_DEFAULT,
    language: Annotated[
        str | None, typer.Option(help="With --transcribe: code such as en. Default: found by the model.")
    ] = None,
    read_text: Annotated[
        bool, typer.Option("--read-text", help="Read what is on screen, for search (needs the extra ocr).")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download a model without asking.")] = False,
) -> None:
    """Serve a model to others, with the API of OpenAI: upload videos, read them once, ask."""
    try:
        import uvicorn

        from videoxl.server.app import make_app
        from videoxl.server.settings import Limits, ServerSettings
    except ImportError as error:
        missing = f"videoxl serve needs {error.name}: pip install 'videoxl[serve]'"
        raise MissingDependencyError(missing) from None
    indexed = _index_settings(
        KeepOptions(
            subtitles="auto",
            meaning=meaning,
            frames=frames,
            transcribe=transcribe,
            speech_model=speech_model,
            language=language,
            read_text=read_text,
        ),
        on=index,
        ask=not yes,
    )
    keys = [*(api_key or []), *filter(None, os.environ.get("VIDEOXL_API_KEY", "").split(","))]
    settings = ServerSettings(
        data=Path(data),
        model=model,
        device=device,
        devices=worker_devices(device, devices, workers),
        dtype=dtype,
        quantization=quantization,
        shared=shared,
        host=host,
        port=port,
        api_keys=tuple(keys),
        allowed_hosts=tuple(allowed_host or ()),
        allowed_media_domains=tuple(allow_media_domain or ()),
        allowed_media_paths=tuple(allowed_media_path or ()),
        allowed_streams=tuple(allow_stream or ()),
        hot_bytes=max(1, int(hot_gb * GIB)),
        index=indexed,
        limits=Limits(
            file_bytes=int(max_file_gb * GIB),
            stored_bytes=int(max_stored_gb * GIB),
            video_frames=max_frames,
            streams=max_streams,
            video_seconds=max_hours * 3600,
            waiting_questions=max_waiting,
        ),
    )
    with listening(host, port) as listener:
        app = make_app(settings)
        if not keys:
            tell("note", "no API key: everybody on this machine may ask")
        tell("serving", f"{model} on http://{host}:{listener.getsockname()[1]}, its files in {data}")
        config = uvicorn.Config(
            app, http="h11", log_level="warning", access_log=False, timeout_graceful_shutdown=10
        )  # h11 limits what it keeps of headers that do not end
        uvicorn.Server(config).run(sockets=[listener])


def worker_devices(device: str, devices: str | None, workers: int) -> tuple[str, ...]:
    """A device for each of several workers; none where one is enough. Raises ``ValueError`` where they do not fit."""
    named = [one.strip() for one in (devices or "").split(",") if one.strip()]
    if devices is not None:
        if device != "auto" or workers not in (1, len(named)):
            raise ValueError("--devices names the device of each worker: leave out --device and --workers")
        if not named:
            raise ValueError("--devices names no device: give them as cuda:0,cuda:1")
        return tuple(named)
    if workers == 1:
        return ()
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--workers {workers} on --device {device}: name the device of each (--devices cuda:0,cuda:1)")
    gpus = 0 if device == "cpu" else count_gpus()
    if gpus == 0 and device != "cuda":
        return ("cpu",) * workers
    if workers > gpus:
        raise ValueError(
            f"--workers {workers}, and {gpus} GPUs are there, one for each worker: give fewer, or share them by name "
            "(--devices cuda:0,cuda:0)"
        )
    return tuple(f"cuda:{number}" for number in range(workers))


def count_gpus() -> int:
    """GPUs that torch sees. It is asked in another process: this one works without it."""
    code = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _index_settings(keep: KeepOptions, *, on: bool, ask: bool) -> IndexSettings | None:
    """What the index keeps. Models are downloaded here, and what is missing is said before anything is served."""
    from videoxl.server.settings import IndexSettings

    if not on:
        if keep != KeepOptions(subtitles="auto"):
            raise ValueError("--no-index keeps nothing for search: leave out --meaning, --frames, --transcribe ...")
        return None
    if keep.meaning not in ("auto", "none"):
        download(keep.meaning, None, ask=ask)
    if keep.frames is not None:
        download(keep.frames, None, ask=ask)
    if keep.transcribe:
        download_speech_model(keep.speech_model, ask=ask)
    if keep.read_text:
        from videoxl.words.screen_ocr import NEEDS_OCR

        if importlib.util.find_spec("rapidocr_onnxruntime") is None:  # its models are loaded by the indexer
            raise MissingDependencyError(NEEDS_OCR)
    return IndexSettings(
        meaning=keep.meaning,
        frames=keep.frames,
        speech=keep.speech_model if keep.transcribe else None,
        language=keep.language,
        screen=keep.read_text,
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ``ValueError`` where it cannot, before anything is loaded."""
    try:
        address_kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        with contextlib.ExitStack() as failed:
            # asyncio sets TCP_NODELAY only where a socket says that it is TCP; else a reply in two parts waits 40 ms
            listener = failed.enter_context(socket.socket(address_kind, socket.SOCK_STREAM, socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address_kind == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, port))
            listener.listen(2048)
            failed.pop_all()
        return listener
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]
        raise ValueError(f"cannot listen on {host}:{port} ({why}): give another --host or --port") from None
