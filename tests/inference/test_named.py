"""A memory may be a stranger's: on its word only an embedded model, or one of the cache with its weights, is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

import videoxl
from tests.model.builders import small_beacon_model, small_model, write_released
from videoxl.cli.main import main
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.decode.siglip import SiglipRelevance, siglip_fingerprint
from videoxl.inference.loading import embedded_folder, parse_dtype, resolve, snapshot_revision, split_revision
from videoxl.inference.named import fingerprint_of_files, model_named_by
from videoxl.memory.file.load import StoredMemory
from videoxl.model.folder import ModelFolder, built_without_memory
from videoxl.model.videoxl import VideoXLForConditionalGeneration

OLD, NEW = "0" * 40, "1" * 40


class Hub:
    """A cache of the Hub, and a Hub behind it that is not to be asked unless a test says so."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[tuple[str, str | None]] = []
        self.asked: list[list[str]] = []
        self.online: dict[tuple[str, str], Path] = {}

    def put(self, hub_id: str, source: Path, revision: str = NEW, *, main: bool = True, cached: bool = True) -> Path:
        folder = self.root / f"models--{hub_id.replace('/', '--')}" / "snapshots" / revision
        if not cached:
            self.online[hub_id, revision] = source
            return folder
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("siglip"))
        if main:
            refs = folder.parent.parent / "refs"
            refs.mkdir(exist_ok=True)
            (refs / "main").write_text(revision)
        return folder

    def snapshot_download(self, hub_id, *, revision=None, allow_patterns=None, local_files_only=False) -> str:
        """As huggingface_hub's, with a folder for a network."""
        self.asked.append(list(allow_patterns or []))
        repo = self.root / f"models--{hub_id.replace('/', '--')}"
        main = repo / "refs" / "main"
        commit = revision or (main.read_text() if main.exists() else None)
        if commit and (repo / "snapshots" / commit).is_dir():
            return str(repo / "snapshots" / commit)
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        self.fetched.append((hub_id, revision))
        if (hub_id, commit) not in self.online:
            raise OSError("no network")
        return str(self.put(hub_id, self.online[hub_id, commit], commit))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    return made


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (24, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def memory_of(engine: videoxl.VideoXL, pictures: torch.Tensor, path: Path, **card: object) -> Path:
    """A memory file whose card says what ``card`` does."""
    memory = engine.encode(frames=pictures)
    owner = memory.require_owner("a test")

    class Forged(type(owner)):
        @property
        def model_id(self):
            return replace(super().model_id, **card)

    owner.__class__ = Forged
    try:
        memory.save(path)
    finally:
        owner.__class__ = Forged.__base__
    return path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", "tiny-v1", "tiny-qwen3"])
def test_a_fingerprint_is_the_same_from_the_files_as_from_the_model(name, dtype):
    folder = embedded_folder(name)
    planned = built_without_memory(VideoXLForConditionalGeneration, ModelFolder.open(folder).config, name)
    wanted = videoxl.load(name, device="cpu", dtype=dtype).fingerprint
    assert fingerprint_of_files(planned, folder, parse_dtype(dtype)) == wanted


def test_a_fingerprint_of_released_files_in_several_parts_is_the_same_too(tmp_path):
    for name, made in (("v2", small_model()), ("v1", small_beacon_model())):
        folder = write_released(tmp_path / name, made, shards=3)
        planned = built_without_memory(VideoXLForConditionalGeneration, ModelFolder.open(folder).config, name)
        assert (
            fingerprint_of_files(planned, folder, torch.float32) == videoxl.load(str(folder), device="cpu").fingerprint
        )


def test_a_fingerprint_of_siglip_is_the_same_from_the_files():
    folder = embedded_folder("tiny") / "siglip"
    assert siglip_fingerprint(folder) == SiglipRelevance(str(folder)).fingerprint


@pytest.mark.parametrize(
    "name", ["owner/evil", "owner/evil@main", "evil", "/etc", "../model", "https://x.y/z", "a/b/c"]
)
def test_a_memory_makes_nothing_be_fetched_or_loaded(hub, tiny, pictures, tmp_path, capsys, monkeypatch, name):
    hub.put("owner/evil", embedded_folder("tiny-v1"), "main", cached=False)
    film = memory_of(tiny, pictures, tmp_path / "a.vxl", name=name, revision=NEW)
    monkeypatch.setattr("videoxl.inference.engine.load", lambda *a, **k: pytest.fail("a model was loaded"))
    for command in (["ask", str(film), "What?"], ["chat", str(film)], ["find-ads", str(film)]):
        code, _, said = run(capsys, *command)
        assert (code, hub.fetched) == (2, [])
    code, _, said = run(capsys, "ask", str(film), "What?")
    assert "no model is fetched or loaded on a file's word: give it with --model" in said
    assert len(said.splitlines()) == 1


def test_a_cached_model_of_other_weights_is_not_loaded(hub, tiny, pictures, tmp_path, capsys, monkeypatch):
    hub.put("owner/other", embedded_folder("tiny-v1"))
    film = memory_of(tiny, pictures, tmp_path / "a.vxl", name="owner/other")
    monkeypatch.setattr("videoxl.inference.engine.load", lambda *a, **k: pytest.fail("a model was loaded"))
    code, _, said = run(capsys, "ask", str(film), "What?")
    assert (code, "in the local cache with the same weights" in said, hub.fetched) == (2, True, [])


def test_a_cached_model_of_the_same_weights_is_loaded_at_its_commit(hub, pictures, tmp_path, capsys):
    hub.put("owner/model", embedded_folder("tiny"), OLD, main=False)
    hub.put("owner/model", embedded_folder("tiny-v1"), NEW)
    engine = videoxl.load("owner/model", revision=OLD, device="cpu")
    assert (engine.name, engine.revision) == ("owner/model", OLD)
    film = tmp_path / "a.vxl"
    engine.encode(frames=pictures).save(film)
    stored = StoredMemory.open(film).model_id
    assert (stored.name, stored.revision) == ("owner/model", OLD)
    assert model_named_by(stored, "a.vxl") == ("owner/model", OLD)
    code, out, said = run(capsys, "ask", str(film), "What is shown?", "--json", "--max-new-tokens", "4")
    assert (code, bool(json.loads(out)[0]["answer"]), "made by owner/model" in said) == (0, True, True)
    code, out, _ = run(capsys, "info", str(film), "--json")
    assert json.loads(out)["revision"] == OLD
    assert hub.fetched == []


def test_an_embedded_model_needs_no_cache(hub, pictures, tmp_path, capsys):
    film = tmp_path / "a.vxl"
    videoxl.load("tiny", device="cpu").encode(frames=pictures).save(film)
    assert StoredMemory.open(film).model_id.revision is None
    assert run(capsys, "ask", str(film), "What is shown?", "--max-new-tokens", "4")[0] == 0
    code, _, said = run(capsys, "ask", str(film), "What?", "--revision", "main")
    assert (code, "--revision is for a --model" in said) == (2, True)


def test_the_model_that_is_given_is_loaded_wherever_it_is(hub, tiny, pictures, tmp_path, capsys):
    folder = Path(shutil.copytree(embedded_folder("tiny"), tmp_path / "mine"))
    engine = videoxl.load(str(folder), device="cpu")
    film = tmp_path / "a.vxl"
    engine.encode(frames=pictures).save(film)
    code, _, said = run(capsys, "ask", str(film), "What?", "--max-new-tokens", "4")
    assert (code, "was made by mine" in said) == (2, True)
    assert run(capsys, "ask", str(film), "What?", "--max-new-tokens", "4", "--model", str(folder))[0] == 0


def test_what_saw_the_frames_is_not_loaded_on_a_files_word(hub, pictures, tmp_path, monkeypatch):
    engine = videoxl.load("tiny", device="cpu")
    memory = engine.encode(frames=pictures, siglip=True)
    hub.put("owner/siglip", embedded_folder("tiny-v1"))
    for named in ("owner/evil", "owner/siglip", str(embedded_folder("tiny") / "siglip")):
        memory.keep_embeddings(replace(memory.embeddings, model=named))
        engine.siglip = None
        with monkeypatch.context() as patched:
            patched.setattr("videoxl.inference.decode.siglip.load_part", lambda *a, **k: pytest.fail("it was loaded"))
            with pytest.raises(ValueError, match=r"not loaded on a file's word: give .*--siglip"):
                engine.ask(memory, "What?", decode="bilevel:relevance=siglip,block_size=1,top_k=1")
    assert hub.fetched == []
    hub.put("owner/tower", embedded_folder("tiny") / "siglip")
    memory.keep_embeddings(replace(memory.embeddings, model="owner/tower"))
    answer = engine.ask(memory, "What?", decode="bilevel:relevance=siglip,block_size=1,top_k=1", max_new_tokens=2)
    assert answer.token_ids
    assert engine.siglip.name == "owner/tower"


# ------------------------------------------------------------------------------------------------------------ revisions


def test_a_revision_is_what_is_fetched(hub):
    hub.put("owner/model", embedded_folder("tiny"), "v1.0", cached=False)
    for given in (("owner/model", "v1.0"), ("owner/model@v1.0", None), ("owner/model@v1.0", "v1.0")):
        folder = resolve(*given)
        assert (folder.name, snapshot_revision(folder)) == ("v1.0", "v1.0")
    assert hub.fetched == [("owner/model", "v1.0")]
    with pytest.raises(videoxl.CheckpointError, match=r"owner/model at revision v2 .* could not be fetched"):
        resolve("owner/model", "v2")
    with pytest.raises(videoxl.CheckpointError, match=r"owner/model at revision v3 is not in the local cache"):
        resolve("owner/model", "v3", local_files_only=True)


def test_one_folder_of_a_hub_id_is_a_model(hub, tmp_path):
    (source := tmp_path / "repository").mkdir()
    shutil.copytree(embedded_folder("tiny"), source / "parts" / "stage3")
    hub.put("owner/model", source, "v1.0", cached=False)
    for given in (("hf://owner/model@v1.0/parts/stage3", None), ("hf://owner/model/parts/stage3/", "v1.0")):
        folder = resolve(*given)
        assert (folder.name, snapshot_revision(folder)) == ("stage3", "v1.0")
    assert all(pattern.startswith("parts/stage3/") for asked in hub.asked[:2] for pattern in asked)
    engine = videoxl.load("hf://owner/model@v1.0/parts/stage3")
    assert engine.revision == "v1.0"
    with pytest.raises(videoxl.CheckpointError, match="owner/model on the Hub has no folder stage4"):
        resolve("hf://owner/model@v1.0/stage4")
    up, absolute, control = "hf://owner/model/a/../../../etc", "hf://owner/model//etc", "hf://owner/model/\x1b[31m"
    for name in ("owner/model/parts/stage3", "hf://owner", "hf://own--er/model", up, absolute, control):
        with pytest.raises(videoxl.CheckpointError, match="no such model folder"):
            resolve(name)


def test_a_revision_of_what_has_none_is_refused(hub, tmp_path):
    for name in ("tiny", str(embedded_folder("tiny"))):
        with pytest.raises(ValueError, match="is for a Hub id"):
            videoxl.load(name, revision="main")
    with pytest.raises(ValueError, match="give one of them"):
        resolve("owner/model@a", "b")
    with pytest.raises(ValueError, match="an empty text"):
        resolve("owner/model", " ")
    assert split_revision("owner/model@abc") == ("owner/model", "abc")
    assert split_revision("owner/model") == ("owner/model", None)
    assert snapshot_revision(tmp_path) is None


def test_the_command_line_and_the_processor_take_a_revision(hub, clip, tmp_path, capsys, monkeypatch):
    old = hub.put("owner/model", embedded_folder("tiny"), OLD, main=False)
    hub.put("owner/model", embedded_folder("tiny-v1"), NEW)
    film = str(tmp_path / "film.vxl")
    common = ["--model", "owner/model", "--revision", OLD, "--quiet"]
    assert run(capsys, "encode", str(clip), "-o", film, "--max-frames", "4", *common)[0] == 0
    assert StoredMemory.open(film).model_id.revision == OLD
    code, _, _ = run(capsys, "ask", film, "What?", "--max-new-tokens", "2", *common)
    assert code == 0
    code, _, said = run(capsys, "ask", film, "What?", "--model", "owner/model", "--quiet")
    assert (code, "was made by" in said) == (2, True)
    code, out, _ = run(capsys, "info", str(old), "--json")
    assert (code, json.loads(out)["revision"]) == (0, OLD)
    asked: list[object] = []
    monkeypatch.setattr(
        "videoxl.hf.processing.cached_file", lambda name, file, **k: asked.append(k.get("revision")) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        VideoXLProcessor.from_pretrained("owner/model", revision=OLD)
    assert asked == [OLD]
