"""Examples that the help of each command ends with."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "ask": (
        'videoxl ask film.mp4 "When does the goal fall?"',
        'videoxl ask film.vxl "Who scores?" "And when?" --json',
        "videoxl ask 'films/*.mp4' \"Who wins?\" -o answers.jsonl --resume",
        "videoxl ask list.csv --questions questions.txt -o answers.csv",
    ),
    "encode": ("videoxl encode film.mp4 -o film.vxl", "videoxl encode film.mp4 -o film.vxl --fps 2 --prefill chunked"),
    "encode-many": ("videoxl encode-many films -o memories", "videoxl encode-many list.csv -o memories --resume"),
    "index": (
        "videoxl index films --transcribe --read-text",
        "videoxl index films 'talks/*.mp4' --index films.db",
    ),
    "search": (
        'videoxl search "the goal falls"',
        "videoxl search '\"final score\" of the match' --in films -n 5 -o found.html",
    ),
    "chat": ("videoxl chat film.mp4", "videoxl chat film.vxl --decode bilevel"),
    "read": ("videoxl read slides.mp4 -o slides.vtt", "videoxl read news.mp4 --fps 2 --start 60 --end 120 --json"),
    "chapters": (
        "videoxl chapters lecture.mp4 --read-text -o chapters.txt",
        "videoxl chapters film.mp4 --subtitles film.srt --model BAAI/Video-XL-2 -o film.ffmetadata",
    ),
    "clip": (
        "videoxl clip film.mp4 --span 12-16 --span 1:02-1:10 -o clips",
        "videoxl clip --from answers.jsonl --margin 2 -o clips",
        "videoxl clip film.mp4 --from found.json -o clips",
    ),
    "transcribe": (
        "videoxl transcribe talk.mp4 -o talk.srt",
        "videoxl transcribe talk.mp4 --model large-v3 --json",
    ),
    "info": ("videoxl info film.mp4", "videoxl info film.vxl --verify", "videoxl info --system"),
    "plan": ("videoxl plan film.mp4 --model BAAI/Video-XL-2 --device a100-80g",),
    "convert": ("videoxl convert released-folder new-folder",),
    "parity": ("videoxl parity tests/fixtures/golden",),
    "demo": ("videoxl demo", "videoxl demo --keep film.mp4"),
    "train": ("videoxl train", "videoxl train config.yaml --set data.num_workers=4"),
    "mcp": (
        "videoxl mcp films --model tiny",
        "videoxl mcp films lectures --index films.db --yes",
    ),
    "serve": (
        "videoxl serve --model tiny",
        "videoxl serve --host 0.0.0.0 --api-key a-long-secret-of-yours --data /srv/videoxl",
    ),
    "watch": (
        "videoxl watch rtsp://camera/stream --alert 'Is somebody at the door?' --out door",
        "videoxl watch https://host/live.m3u8 --question 'What is happening?' --every 30s --json",
        "videoxl watch recording.ts --model tiny --ask",
    ),
    "ground": ('videoxl ground film.mp4 "the goal falls" --report report.html',),
    "find-ads": ("videoxl find-ads film.mp4 --json",),
    "find-anomalies": ("videoxl find-anomalies camera.mp4",),
    "captions": ("videoxl captions film.mp4",),
    "summarize": ("videoxl summarize film.mp4 --report report.html",),
}
"""Command -> what may be typed."""


def epilog(name: str) -> str:
    """The end of a command's help. A blank line keeps each example on a line of its own."""
    return "\n\n".join(("Examples:", *(f"  {one}" for one in EXAMPLES[name])))
