"""``index`` and ``search``: what is told, and the exit status."""

# ruff: noqa: F811  (fixtures of another file have the names of arguments)

from __future__ import annotations

import json
import shutil
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
