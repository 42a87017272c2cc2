"""The video of a web page, downloaded by yt-dlp where that is installed.

yt-dlp runs as a program of its own. It is told to take one file as it is: joining or mending files would open what a
stranger made outside the sandbox. It connects to wherever the page sends it; the page's own address was checked.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

NAME = "video"
NOT_INSTALLED = (
    "is a web page, not a video file, and yt-dlp, which finds the video of a page, is not installed: pip install "
    "yt-dlp, or download the video and give the path"
)


def command() -> list[str] | None:
    """What runs yt-dlp; None where it is not installed."""
    if program := shutil.which("yt-dlp"):
        return [program]
    return [sys.executable, "-m", "yt_dlp"] if importlib.util.find_spec("yt_dlp") else None


def download(url: str, folder: Path, most_bytes: int, seconds: float) -> Path | str:
    """The file of a page's video in ``folder``; or why there is none, in one line."""
    runs = command()
    if runs is None:
        return NOT_INSTALLED
    options = ["--ignore-config", "--no-playlist", "--no-progress", "--no-cache-dir", "--format=b", "--fixup=never"]
    limits = ["--max-filesize", str(most_bytes), "--output", str(folder / f"{NAME}.%(ext)s")]
    try:
        done = subprocess.run(
            [*runs, *options, *limits, "--", url],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(1.0, seconds),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"yt-dlp took longer than {seconds:.0f} s"
    except OSError as error:
        return f"yt-dlp could not be started ({error.strerror})"
    found = [path for path in folder.glob(f"{NAME}.*") if path.suffix not in (".part", ".ytdl")]
    if done.returncode or len(found) != 1:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "it gave no file"
        return f"yt-dlp found no video that may be taken ({said[:300]})"
    if (size := found[0].stat().st_size) > most_bytes:
        return f"has {size / 1e6:,.1f} MB, and at most {most_bytes / 1e6:,.1f} MB are taken"
    return found[0]
