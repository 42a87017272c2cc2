"""How long a search takes through a server that keeps 100,000 passages and as many frames.

    python -m benchmarks.serve_search --model FOLDER_OF_MINILM [-o benchmarks/results/serve-search.json]

The texts are read, and the questions, by a real sentence model; frames are drawn, and compared by a SigLIP model of
the released width with one layer. Every question is new. Clock: what a client waits. Computing: processor time of the
front and its indexer, over all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import torch
from benchmarks.search import DEEDS, PEOPLE, PLACES

import videoxl
from videoxl.catalogue import Catalogue, IndexedTrack, Space, Vectors
from videoxl.catalogue.frames import FrameModel
from videoxl.catalogue.making import file_facts
from videoxl.catalogue.sentences import SentenceModel
from videoxl.cues import Cue, Track, TrackKind
from videoxl.server.guard import LOCAL
from videoxl.server.store import Store

FILES, EACH = 100, 1000
WIDTH = 1152
QUESTIONS = 20


def sentence(rng: random.Random) -> str:
    """Somebody does something somewhere, in one of several wordings."""
    return " ".join(rng.choice(rng.choice(part)) for part in (PEOPLE, DEEDS, PLACES))


def small_siglip(folder: Path, words: Path) -> Path:
    """A SigLIP model of the released width, with one layer."""
    from transformers import SiglipConfig, SiglipModel

    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 16}
    text = {**sizes, "vocab_size": 30522, "max_position_embeddings": 64, "projection_size": WIDTH}
    torch.manual_seed(0)
    config = SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    SiglipModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(words / name, folder)
    return folder


def fill(data: Path, minilm: Path, siglip: Path) -> None:
    """A server's folder with files that are in the index already."""
    rng, drawn = random.Random(0), np.random.default_rng(0)
    text_model, frames_model = SentenceModel(str(minilm), device="cpu"), FrameModel.load(str(siglip))
    words = Space("text", text_model.name, text_model.fingerprint)
    known = text_model.of_texts([sentence(rng) for _ in range(2000)])  # the others lie near these
    times = np.stack([np.arange(EACH) * 4.0, np.arange(EACH) * 4.0 + 4], axis=1)
    store = Store(data)
    with Catalogue(data / "index.db", write=True) as catalogue:
        for number in range(FILES):
            content = store.incoming()
            content.write_bytes(f"file {number}".encode())
            file = store.add_file(content, LOCAL, f"{number}.mp4", f"{number:064x}", "user_data")
            cues = tuple(Cue(at, at + 4, sentence(rng)) for at, _ in times)
            near = known[drawn.integers(0, len(known), EACH)] + 0.05 * drawn.standard_normal((EACH, known.shape[1]))
            seen = drawn.standard_normal((EACH, WIDTH)) + 2 * drawn.standard_normal(WIDTH)
            said = IndexedTrack("subtitles", "auto", Track(TrackKind.SUBTITLES, cues), _vectors(words, times, near))
            frames = IndexedTrack("frames", "drawn", vectors=_vectors(frames_model.space, times, seen))
            facts = file_facts(str(store.path_of(file)))
            catalogue.add(type(facts)(facts.path, facts.digest, facts.size, facts.mtime_ns, 4000.0, (said, frames)))
    store.close()


def _vectors(space: Space, times: np.ndarray, drawn: np.ndarray) -> Vectors:
    return Vectors(space, times, (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32))


def served(data: Path, minilm: Path, siglip: Path) -> tuple[subprocess.Popen, httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "videoxl", "serve", "--model", "tiny", "--device", "cpu", "--data", str(data)]
    options = ["--meaning", str(minilm), "--frames", str(siglip), "--port", str(port)]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
    while True:
        try:
            if client.get("/health").status_code == 200:
                return process, client
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def computing(process: subprocess.Popen) -> float:
    """Processor seconds of the front and the processes that it started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    total = 0.0
    for pid in (process.pid, *children):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measured(process: subprocess.Popen, client: httpx.Client, by: str) -> dict[str, float]:
    rng = random.Random(by)
    clock = []
    began = computing(process)
    for _ in range(QUESTIONS):
        body = {"query": sentence(rng), "by": by, "limit": 10}
        start = time.perf_counter()
        reply = client.post("/v1/video/search", json=body)
        clock.append(1000 * (time.perf_counter() - start))
        reply.raise_for_status()
        if len(reply.json()["data"]) != 10:
            raise SystemExit(f"{by}: {len(reply.json()['data'])} of 10 hits: {reply.json()['notes']}")
    used = 1000 * (computing(process) - began) / QUESTIONS
    return {
        "clock_median_ms": round(statistics.median(clock), 1),
        "clock_p95_ms": round(sorted(clock)[int(0.95 * len(clock))], 1),
        "clock_best_ms": round(min(clock), 1),
        "computing_ms": round(used, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of a sentence model")
    parser.add_argument("-o", "--output", default="benchmarks/results/serve-search.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        siglip = small_siglip(folder / "siglip", chosen.model)
        fill(folder / "data", chosen.model, siglip)
        process, client = served(folder / "data", chosen.model, siglip)
        try:
            while client.post("/v1/video/search", json={"query": "river", "by": "frames"}).status_code != 200:
                time.sleep(0.5)  # the models of the indexer are being loaded
            while "videoxl_index_waiting 0.0" not in client.get("/metrics").text:
                time.sleep(0.5)  # it looks at what is there
            load = os.getloadavg()[0]
            found = {by: measured(process, client, by) for by in ("words", "meaning", "frames", "all")}
        finally:
            process.terminate()
            process.wait(30)
    record = {
        "what": f"a search through videoxl serve, {FILES * EACH:,} passages and {FILES * EACH:,} frames",
        "vectors": {"passages": FILES * EACH, "frames": FILES * EACH, "width of frames": WIDTH},
        "questions": QUESTIONS,
        "cores": os.cpu_count(),
        "load": {"before": round(load, 1), "after": round(os.getloadavg()[0], 1)},
        **found,
        "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    Path(chosen.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
