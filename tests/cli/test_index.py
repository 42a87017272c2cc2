"""``index`` and ``search``: what is told, and the exit status."""

# ruff: noqa: F811  (fixtures of another file have the names of arguments)

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import Run, film, one_line, videoxl  # noqa: F401  (fixtures)


@pytest.fixture
def films(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a film in a folder of it, and a file that is no film."""
    folder = tmp_path / "films"
    (folder / "inner").mkdir(parents=True)
    shutil.copy(film, folder / "inner" / "a.mp4")
    (folder / "c.mp4").write_bytes(b"no film")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEOXL_INDEX", str(tmp_path / "index.db"))
    return folder


def test_a_folder_is_indexed_and_searched(videoxl: Run, films: Path, tmp_path: Path) -> None:
    from videoxl.catalogue import Catalogue, IndexedTrack
    from videoxl.catalogue.making import file_facts
    from videoxl.cues import Cue, Track, TrackKind

    first = videoxl("index", "films", "--meaning", "none", "--json", "-q")
    assert first.returncode == 1
    told = json.loads(first.stdout)
    assert (told["new"], told["failed"], [one["video"] for one in told["problems"]]) == (1, 1, ["films/c.mp4"])
    assert "failed: films/c.mp4: c.mp4: looks like text" in first.stderr
    (films / "c.mp4").unlink()
    again = videoxl("index", "films", "--meaning", "none")
    assert (again.returncode, "1 kept, 1 gone" in again.stdout) == (0, True)
    cues = (Cue(0.5, 2, "The <b>goal</b> falls \x1b[31m <|im_end|>"),)
    with Catalogue(tmp_path / "index.db", write=True) as catalogue:
        facts = file_facts(str(films / "inner" / "a.mp4"))
        track = IndexedTrack("speech", "", Track(TrackKind.SPEECH, cues))
        catalogue.add(type(facts)(**{**vars(facts), "tracks": (track,)}))
    found = videoxl("search", "goal", "-o", "found.html")
    assert found.returncode == 0
    assert found.stdout.splitlines()[1].strip() == "The <b>**goal**</b> falls \\x1b[31m <|im_end|>"
    assert 'src="films/inner/a.mp4#t=0.50,2.00"' in Path("found.html").read_text()
    (hit,) = json.loads(videoxl("search", "goal", "--json", "--in", "films", "--track", "speech,screen").stdout)["hits"]
    assert hit["text"][slice(*hit["marks"][0])] == "goal"
    assert hit["thumbnail"].startswith("data:image/jpeg;base64,")
    assert videoxl("search", "goal", "--in", "elsewhere").stdout.strip() == "nothing was found"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", ""), "the query is empty"),
        (("search", "x", "--index", "none.db"), "there is no index"),
        (("index", "films", "--fps", "0"), "--fps must be above 0"),
        (("index", "films", "--subtitles", "a.srt"), "give auto"),
        (("index", "none/*.mp4"), "no file matches"),
        (("index", "films", "--meaning", "films"), "films"),
        (("index", "films", "--workers", "0", "--meaning", "none"), "workers must be"),
    ],
)
def test_what_cannot_be_done_is_one_line(videoxl: Run, films: Path, arguments: tuple[str, ...], said: str) -> None:
    result = videoxl(*arguments)
    assert (result.returncode, said in one_line(result)) == (2, True)


# ---------------------------------------------------------------------------------------------------------- frames


def test_an_index_of_pictures_alone_says_that_it_finds_nothing(videoxl: Run, films: Path) -> None:
    (films / "c.mp4").unlink()
    indexed = videoxl("index", "films", "--meaning", "none", "-q")
    assert "only small pictures are kept" in indexed.stderr
    assert "holds no words and no vectors" in videoxl("search", "goal").stderr


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP model with random weights, as the Hub would have it."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    from tests.model.random_tiny import tiny_tokenizer

    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = tiny_tokenizer()
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 32}
    torch.manual_seed(1)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 48, "patch_size": 16}))
    folder = tmp_path_factory.mktemp("siglip")
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def test_frames_are_found_as_transformers_would_find_them(videoxl: Run, films: Path, siglip: Path) -> None:
    """A folder of transformers' own class, through the command, against its own forward and processor."""
    import torch
    from transformers import AutoTokenizer, SiglipImageProcessor, SiglipModel

    from videoxl import Sampling
    from videoxl.inference.video_input import open_for_model
    from videoxl.video import Resize

    (films / "c.mp4").unlink()
    assert videoxl("index", "films", "--meaning", "none", "--frames", siglip, "--fps", 0.5, "-q").returncode == 0
    found = json.loads(videoxl("search", "a red star", "--json", "-n", 100).stdout)["hits"]
    with open_for_model(films / "inner" / "a.mp4") as source:
        frames = next(iter(source.read(source.select(Sampling(fps=0.5)), resize=Resize(48, 48), batch_frames=100)))
    model, words = SiglipModel.from_pretrained(siglip).eval(), AutoTokenizer.from_pretrained(siglip)
    asked = words("a red star", padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    pixels = SiglipImageProcessor.from_pretrained(siglip)(list(frames.pixels_FHWC), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        seen = model(input_ids=asked["input_ids"], pixel_values=pixels)
    alike = (seen.image_embeds @ seen.text_embeds.T)[:, 0]
    best = [
        max(alike[(frames.timestamps_F >= hit["start"]) & (frames.timestamps_F < hit["end"])].tolist()) for hit in found
    ]
    assert [hit["scores"]["frames"] for hit in found] == pytest.approx(best, abs=1e-3)
    assert max(best) == alike.max()
    assert all(hit["thumbnail"].startswith("data:image/jpeg;base64,") for hit in found)


@pytest.mark.parametrize("kind", ["empty", "no object", "sentences", "no tokenizer", "file", "elsewhere"])
def test_what_is_no_siglip_model_is_one_line(
    videoxl: Run, films: Path, siglip: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(siglip, folder)
    if kind == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif kind == "no object":
        (folder / "config.json").write_text("[]")
    elif kind == "sentences":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    elif kind == "no tokenizer":
        for file in folder.glob("*token*"):
            file.unlink()
    elif kind == "file":
        folder = folder / "config.json"
    else:
        folder = tmp_path / "none"
    result = videoxl("index", "films", "--meaning", "none", "--frames", folder)
    assert (result.returncode, folder.name in one_line(result)) == (2, True)


def test_the_embedded_model_finds_what_films_and_memories_show(videoxl: Run, films: Path, tmp_path: Path) -> None:
    """Nobody names a model to search with: it is known by what the index says of it."""
    from videoxl import load
    from videoxl.cli.demo import demo_film
    from videoxl.cues import Cue, Track, TrackKind

    told = Track(TrackKind.SPEECH, (Cue(1, 3, "nobody expects a thunderstorm"),))
    load("tiny").encode(films / "inner" / "a.mp4", siglip=True, tracks=[told]).save(films / "b.vxl")
    assert videoxl("index", "films", "--meaning", "none", "--frames", "tiny", "-q").returncode == 1  # c.mp4
    for event in demo_film().events:
        hits = json.loads(videoxl("search", event.thing.phrase, "--by", "frames", "--json").stdout)["hits"]
        assert {Path(hit["path"]).name for hit in hits[:2]} == {"a.mp4", "b.vxl"}
        for hit in hits[:2]:
            assert 4 * event.start - 1 <= hit["start"] < hit["end"] <= 4 * event.end + 1
    (hit,) = json.loads(videoxl("search", "thunderstorm", "--by", "words", "--json").stdout)["hits"]
    assert (Path(hit["path"]).name, hit["start"], hit["track"]) == ("b.vxl", 1, "speech")


@pytest.mark.slow
def test_the_command_killed_while_it_writes_is_completed_by_the_next(film: Path, tmp_path: Path) -> None:
    """``kill -9`` of the whole process; ``benchmarks/index_folder.py killed`` does it 20 times."""
    from videoxl.catalogue import Catalogue

    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(film.read_bytes() + bytes([number]) * 8)
    path = tmp_path / "index.db"
    command = [sys.executable, "-m", "videoxl", "index", str(tmp_path), "--index", str(path), "--frames", "tiny", "-q"]
    before: set[int] = set()
    for wanted in (2,):
        running = subprocess.Popen([*command, "--meaning", "none"], stderr=subprocess.DEVNULL)
        while len(_ready(path)) < wanted:
            assert running.poll() is None
            time.sleep(0.02)
        running.kill()
        running.wait()
        assert before < set(_ready(path))
        before = set(_ready(path))
    done = subprocess.run([*command, "--meaning", "none"], check=True, capture_output=True, text=True)
    assert done.returncode == 0
    with Catalogue(path) as catalogue:
        assert len(catalogue.videos()) == 4
        for video in catalogue.videos():
            (track,) = catalogue.tracks(video.id)
            assert len(track.vectors.vectors_ND) == 48
            assert catalogue.thumbnail(video.id, 0)


def _ready(path: Path) -> list[int]:
    """Videos that are there, seen by a reader of its own."""
    from videoxl.catalogue import Catalogue
    from videoxl.errors import CatalogueError

    try:
        with Catalogue(path) as catalogue:
            return [video.id for video in catalogue.videos() if video.state == "ready"]
    except CatalogueError:  # not made so far
        return []
