"""Records in Parquet, saved data sets and tars: read as those of JSON; damaged and hostile ones."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

from tests.training.records import record, said, video, write
from tests.training.stand_in import config_of, log_losses, model_of, start_of
from videoxl.config import Sampling
from videoxl.errors import TrainingDataError, TrainingError
from videoxl.training.config.validation import ValidationConfig
from videoxl.training.data.dataset import BadSample, DataConfig, VideoDataset
from videoxl.training.data.mixtures import Source
from videoxl.training.data.open_records import expanded, open_records, open_sources
from videoxl.training.data.order import OPEN_BLOCKS, BatchOrder
from videoxl.training.data.storage import Storage
from videoxl.training.run import run
from videoxl.training.trainer import VideoXLTrainer

QUESTION = "<image>\nWhat is shown?"
RECORDS = [record(QUESTION, f"A {n}.", video="clip.mp4", id=f"r{n}", scale=2.0) for n in range(5)]
RECORDS.append(record("Hello?", "Hi.", id="text"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sources")
    video(made, frames=9)
    return made


def table(path, rows, **options):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def tar(path, members):
    """``members``: name -> bytes, or what a ``TarInfo`` is changed to."""
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            else:
                for field, value in content.items():
                    setattr(info, field, value)
                file.addfile(info)
    return path


def members_of(records, clip):
    for one in records:
        inner = {name: value for name, value in one.items() if name != "video"}
        yield f"{one['id']}.json", json.dumps(inner).encode()
        if "video" in one:
            yield f"{one['id']}.mp4", clip


def opened(path, tmp_path):
    return open_records(str(path), Storage(tmp_path / "cache"))


def samples(path, model, **settings):
    settings = {"sampling": Sampling(fps=2, max_frames=8), "sources": (Source(str(path)),), **settings}
    return VideoDataset(DataConfig(**settings), model.config, model.tokenizer)


def in_form(form, folder, target):
    """The records in a form of files; what a source names."""
    clip = (folder / "clip.mp4").read_bytes()
    shown = [{**r, "video": {"bytes": clip, "path": "any/name.mp4"}} if "video" in r else r for r in RECORDS]
    if form == "json":
        return write(target / "a.json", RECORDS)
    if form == "parquet":
        return table(target / "a.parquet", RECORDS, row_group_size=2)
    if form == "bytes":
        return table(target / "a.parquet", shown, row_group_size=2)
    if form == "turns as columns":
        columns = [{"from": [t["from"] for t in r["conversations"]]} for r in RECORDS]
        values = [{"value": [t["value"] for t in r["conversations"]]} for r in RECORDS]
        made = [{**r, "conversations": {**c, **v}} for r, c, v in zip(RECORDS, columns, values)]
        return table(target / "a.parquet", made)
    if form == "several":
        for at in range(3):
            table(target / f"part-{at}.parquet", RECORDS[2 * at : 2 * at + 2])
        return target
    if form == "saved":
        import datasets  # a second to import

        datasets.Dataset.from_list(RECORDS).save_to_disk(str(target / "saved"), num_shards=2)
        return target / "saved"
    for at in range(2):
        tar(target / f"s-{at:03d}.tar", members_of(RECORDS[3 * at : 3 * at + 3], clip))
    return target / ("s-{000..001}.tar" if form == "tars" else "*.tar")


@pytest.mark.parametrize("form", ["parquet", "bytes", "turns as columns", "several", "saved", "tars", "glob"])
def test_every_form_gives_the_samples_of_json(folder, tiny, tmp_path, form):
    want = samples(in_form("json", folder, tmp_path), tiny, media_folder=str(folder))
    data = samples(in_form(form, folder, tmp_path), tiny, media_folder=str(folder))
    assert len(data) == len(want) == 6
    assert (data.kinds, data.lengths) == (want.kinds, want.lengths)
    data = pickle.loads(pickle.dumps(data))
    for number in (4, 0, 5):
        found, wanted = data[number], want[number]
        assert not isinstance(found, BadSample), found
        assert (found.input_ids, found.labels, found.counts) == (wanted.input_ids, wanted.labels, wanted.counts)
        assert found.pixels_FHWC is wanted.pixels_FHWC is None or (found.pixels_FHWC == wanted.pixels_FHWC).all()
        assert found.id.startswith(wanted.id.partition(" ")[0])


def test_what_a_tar_shows_is_never_passed_over(folder, tiny, tmp_path):
    clip, say = (folder / "clip.mp4").read_bytes(), json.dumps({"conversations": said(QUESTION, "A.")}).encode()
    text = json.dumps({"conversations": said("Hello?", "Hi.")}).encode()
    named = json.dumps({"video": "clips/b.mp4", "conversations": said(QUESTION, "A.")}).encode()
    lost = json.dumps({"video": "gone.mp4", "conversations": said(QUESTION, "A.")}).encode()
    made = tar(
        tmp_path / "a.tar",
        [
            *[("./x/a.json", say), ("./x/a.mp4", clip)],
            *[("clips/b.json", named), ("clips/b.mp4", clip), ("clips/b.cls", b"7")],
            *[("c.json", say), ("c.mp4", clip), ("c.mp4", clip)],
            *[("d.json", text), ("d.mp4", clip)],
            *[("e.json", text), ("e.wav", b"sound")],
            *[("f.mp4", clip), ("f.txt", b"a caption")],
            *[("g.json", say), ("g.mp4", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})],
            *[("../h.json", say), ("../h.mp4", clip)],
            *[("i.json", b"[1]"), ("i.mp4", clip)],
            *[("j.json", lost), ("j.mp4", clip)],
            *[("/k.json", say), ("/k.mp4", {"type": tarfile.CHRTYPE})],
            ("folder", {"type": tarfile.DIRTYPE}),
        ],
    )
    data = samples(made, tiny)
    found = {data.name(n).removeprefix("a.tar/"): data[n] for n in range(len(data))}
    good = {name for name, sample in found.items() if not isinstance(sample, BadSample)}
    assert good == {"./x/a", "clips/b", "../h"}
    assert not (tmp_path.parent / "h.mp4").exists()
    reasons = {name: sample.reason for name, sample in found.items() if isinstance(sample, BadSample)}
    told = {
        "c": "c.mp4 stands in the tar 2 times",
        "d": "0 <image> for 1 videos",
        "e": "names 'e.wav' under 'members', which is not read",
        "f": "has no .json with its conversations; it has mp4, txt",
        "g": "is a link, a device or has holes",
        "i": "not a JSON object but a list",
        "j": "no such file",
        "/k": "is a link, a device or has holes",
    }
    assert told.keys() == reasons.keys()
    for name, part in told.items():
        assert part in reasons[name], (name, reasons[name])


def damaged_tar(content: bytes, how: str) -> bytes:
    if how == "cut in a member":
        return content[:1700]
    if how == "cut behind a member":
        return content[:2048]
    if how == "joined":
        return content + content
    return content[:1024] + b"\7" * 200 + content[1224:]


@pytest.mark.parametrize("how", ["cut in a member", "cut behind a member", "joined", "a damaged header"])
def test_a_damaged_tar_is_refused(tmp_path, how):
    whole = tar(tmp_path / "a.tar", [("a.json", b"{}"), ("b.json", b"{}"), ("c.json", b"{}")]).read_bytes()
    (tmp_path / "a.tar").write_bytes(damaged_tar(whole, how))
    with pytest.raises(TrainingDataError, match=r"a\.tar (cannot be read as a tar|is damaged|has more behind its end)"):
        opened(tmp_path / "a.tar", tmp_path)


def test_damage_in_a_table_costs_its_rows_or_is_refused(folder, tiny, tmp_path):
    path = table(tmp_path / "a.parquet", RECORDS, row_group_size=3, compression="gzip")
    where = parquet.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[where : where + 60] = b"\xff" * 60
    path.write_bytes(content)
    data = samples(path, tiny, media_folder=str(folder))
    assert isinstance(data[0], BadSample)
    assert data[0].reason.startswith("a.parquet#1 cannot be read")
    assert not isinstance(data[4], BadSample)
    path.write_bytes(content[:-20])
    with pytest.raises(TrainingDataError, match="cannot be read as Parquet"):
        opened(path, tmp_path)


def test_a_shard_that_vanishes_is_a_bad_sample(folder, tiny, tmp_path):
    for form, name in (("parquet", "a.parquet"), ("tars", "s-000.tar")):
        data = samples(in_form(form, folder, tmp_path), tiny, media_folder=str(folder))
        (tmp_path / name).unlink()
        assert "No such file" in data[0].reason
        assert name in data[0].reason


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"id": "1", "text": "x"}], r"no column conversations .* it has id, text"),
        ([{"messages": 5}], None),
        ([], "no column conversations"),
    ],
)
def test_columns_that_are_missing_or_wrong(tiny, tmp_path, rows, reason):
    path = table(tmp_path / "a.parquet", rows)
    if reason is None:
        assert "conversations must be a list of turns" in samples(path, tiny)[0].reason
    else:
        with pytest.raises(TrainingDataError, match=reason):
            opened(path, tmp_path)


def test_a_column_that_stands_there_twice_is_refused(tmp_path):
    two = pyarrow.table([[1], [2]], names=["conversations", "conversations"])
    parquet.write_table(two, tmp_path / "a.parquet")
    with pytest.raises(TrainingDataError, match="column 'conversations' twice"):
        opened(tmp_path / "a.parquet", tmp_path)


def test_a_row_group_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("videoxl.training.data.tables.MAX_GROUP_BYTES", 100)
    with pytest.raises(TrainingDataError, match="fewer rows in a group"):
        opened(table(tmp_path / "a.parquet", RECORDS), tmp_path)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("{}", "lists no Arrow files"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "lists no Arrow files of this folder"),
        ('{"_data_files": [{"filename": "a.arrow"}]}', "cannot be read as Arrow"),
        ('{"_data_files": [{"filename": "a.arrow"}], "_indices_files": [1]}', "flatten_indices"),
        ("[", "is damaged"),
    ],
)
def test_saved_data_sets_that_cannot_be_used(tmp_path, state, reason):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(state)
    (tmp_path / "saved" / "a.arrow").write_bytes(b"\xff\xff\xff\xff\x10\0\0\0 no arrow")
    with pytest.raises(TrainingDataError, match=reason):
        opened(tmp_path / "saved", tmp_path)


def test_sources_that_name_nothing_or_too_much(tmp_path):
    write(tmp_path / "a.json", RECORDS)
    write(tmp_path / "empty.json", [])
    table(tmp_path / "b.parquet", RECORDS)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "nothing").mkdir()
    (tmp_path / "c.tar.gz").write_bytes(b"x")
    for name, reason in {
        "*.parquets": "nothing matches it",
        "x-{3..1}.tar": "must go up",
        "x-{0..999999}.tar": "more than 100,000 names",
        "a.jso{n,n}": "names .*a.json twice",
        "{a.json,b.parquet}": "several kinds of files",
        "splits": "holds several splits",
        "nothing": "holds no .parquet, .tar or .jsonl files",
        "c.tar.gz": "is compressed",
        "gone.parquet": "gone.parquet cannot be read as Parquet",
        "gone.tar": "gone.tar cannot be read as a tar",
        "empty.json": "holds no records",
    }.items():
        with pytest.raises(TrainingDataError, match=reason):
            open_sources([Source(str(tmp_path / name))], DataConfig(sources=(Source("x"),)))


def test_braces():
    assert list(expanded("a-{08..11}-{x,y}.tar"))[:3] == ["a-08-x.tar", "a-08-y.tar", "a-09-x.tar"]
    assert list(expanded("a-{8..11}")) == ["a-8", "a-9", "a-10", "a-11"]


# ------------------------------------------------------------------------------------------------- order and resuming


def test_blocks_of_a_file_come_in_stretches_and_nothing_is_lost(tmp_path):
    path = table(tmp_path / "a.parquet", [{"conversations": said("a?", "b"), "n": n} for n in range(400)])
    table(path, parquet.read_table(path).to_pylist(), row_group_size=10)
    file = opened(path, tmp_path)
    blocks = np.column_stack([np.repeat([0, 1], [400, 100]), [*file.blocks, *[-1] * 100]])
    order = BatchOrder(500, 5, seed=1, blocks=blocks)
    numbers = np.array(list(order)).ravel()
    assert sorted(numbers.tolist()) == list(range(500))
    assert (numbers != np.array(list(BatchOrder(500, 5, seed=1, epoch=1, blocks=blocks))).ravel()).any()
    rows = [n for n in numbers.tolist() if n < 400]
    spans = [max(at) - min(at) for at in ([i for i, n in enumerate(rows) if n // 10 == block] for block in range(40))]
    assert max(spans) < 400 * OPEN_BLOCKS / 40 * 1.5  # a stretch, not the epoch
    assert max(np.abs(np.diff(rows))) > 100  # and not one after the other
    free = np.flatnonzero(numbers >= 400)
    assert free.min() < 50
    assert free.max() > 450


def test_two_processes_share_an_order_that_goes_on_where_it_was(tmp_path):
    path = table(tmp_path / "a.parquet", [{"conversations": said("a?", "b")}] * 90, row_group_size=10)
    blocks = np.column_stack([np.zeros(90, int), opened(path, tmp_path).blocks])
    whole = list(BatchOrder(90, 4, seed=3, blocks=blocks))
    parts = [list(BatchOrder(90, 2, seed=3, rank=rank, world=2, blocks=blocks)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts)] == whole
    later = [list(BatchOrder(90, 2, seed=3, rank=rank, world=2, start_batch=9, blocks=blocks)) for rank in (0, 1)]
    assert later == [part[9:] for part in parts]


def read_by_a_run(folder, output, *, dies_in=None, resume=False):
    """Names of the samples of a run of 4 steps on texts from files, in order, and the losses in its log."""
    seen, steps = [], []

    class Noting(VideoDataset):
        def __getitem__(self, number):
            seen.append(self.name(number))
            return super().__getitem__(number)

    def training_step(self, *given, **more):
        steps.append(1)
        if len(steps) == dies_in:
            raise Death
        return real(self, *given, **more)

    sources = (Source(str(folder / "a.parquet"), "random:70%"), Source(str(folder / "*.tar")))
    config = config_of(data={"sources": sources, "group_by_length": True}, save_steps=2, per_device_batch_size=2)
    real = VideoXLTrainer.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("videoxl.training.setup.VideoDataset", Noting)
        patch.setattr(VideoXLTrainer, "training_step", training_step)
        run(config, output=output, resume=resume, model=start_of(model_of()), progress=False, notify=lambda _: None)
    return seen, log_losses(output)


class Death(BaseException):
    pass


def test_a_run_that_died_sees_the_order_of_one_that_did_not(tmp_path):
    texts = [record(f"Question {n}?", f"Answer {n}.", id=f"t{n}") for n in range(60)]
    table(tmp_path / "a.parquet", texts, row_group_size=4)
    for shard in range(2):
        tar(tmp_path / f"s-{shard}.tar", members_of(texts[shard * 3 : shard * 3 + 3], b""))
    whole, losses = read_by_a_run(tmp_path, tmp_path / "whole")
    assert len(losses) == 4
    with pytest.raises(Death):
        read_by_a_run(tmp_path, tmp_path / "died", dies_in=4)
    after, again = read_by_a_run(tmp_path, tmp_path / "died", resume=True)
    assert after == whole[-len(after) :]
    assert len(after) < len(whole)
    assert again == losses
    table(tmp_path / "a.parquet", texts[:50], row_group_size=4)
    with pytest.raises(TrainingError, match=r"a\.parquet had 60 records and now has 50"):
        read_by_a_run(tmp_path, tmp_path / "died", resume=True)


def test_files_are_looked_at_before_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("videoxl.training.run.load_model_to_train", lambda config: pytest.fail("weights were read"))
    write(tmp_path / "a.json", RECORDS)
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    for data, validation in (("b.tar", None), ("a.json", {"sources": [str(tmp_path / "b.tar")]})):
        config = config_of(
            data={"sources": (Source(str(tmp_path / data)),)},
            validation=validation and ValidationConfig(**validation),
        )
        with pytest.raises(TrainingDataError, match=r"b\.tar cannot be read as a tar"):
            run(config, output=tmp_path / "run", progress=False)
