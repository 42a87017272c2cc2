"""Inputs that are pictures already: arrays, tensors, lists, folders, still pictures, iterators."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests import media
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video import Resize, VideoLimits, open_video

FRAMES = np.stack([media.numbered(i, 32, 24) for i in range(6)])


EVERY_FRAME = Sampling(fps=1000)


def read_all(source, sampling=EVERY_FRAME, resize=None, **kwargs):
    return list(source.read(source.select(sampling), resize=resize, **kwargs))


def tensors():
    torch = pytest.importorskip("torch")
    whole = torch.from_numpy(FRAMES)
    return [whole, whole.permute(0, 3, 1, 2), whole.permute(0, 3, 1, 2).float() / 255, (whole / 255).double()]


@pytest.mark.parametrize("make", [lambda: [FRAMES, FRAMES.transpose(0, 3, 1, 2), FRAMES / 255.0], tensors])
def test_arrays_and_tensors_of_every_layout(make):
    for array in make():
        source = open_video(array, fps=2)
        assert source.times_F.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
        assert source.info.duration == 3.0
        frames = np.concatenate([f.pixels_FHWC for f in read_all(source, batch_frames=4)])
        np.testing.assert_array_equal(frames, FRAMES)


def test_batches_are_bounded():
    assert [len(f) for f in read_all(open_video(FRAMES), batch_frames=4)] == [4, 2]
    with pytest.raises(ValueError, match="batch_frames"):
        read_all(open_video(FRAMES), batch_frames=0)


def test_a_folder_is_read_in_natural_order(tmp_path):
    for i in (10, 9, 100, 1):
        Image.fromarray(media.numbered(i)).save(tmp_path / f"shot {i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_video(tmp_path)
    (frames,) = read_all(source)
    assert [media.number_of(p) for p in frames.pixels_FHWC] == [1, 9, 10, 100]
    assert frames.timestamps_F.tolist() == [0, 1, 2, 3]
    assert not source.is_still


def test_lists_may_mix_kinds_and_sizes(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(media.numbered(7)).save(path)
    mixed = [str(path), Image.fromarray(media.numbered(8, 64, 48)), media.numbered(9, 32, 24)]
    source = open_video(mixed, timestamps=[0.5, 4, 9])
    (frames,) = read_all(source, resize=Resize(48, 64))
    assert [media.number_of(p) for p in frames.pixels_FHWC] == [7, 8, 9]
    assert frames.timestamps_F.tolist() == [0.5, 4, 9]
    assert [f.pixels_FHWC.shape[1] for f in read_all(source)] == [120, 48, 24]


def test_a_still_is_one_frame_at_zero(tmp_path):
    picture = Image.fromarray(media.numbered(3))
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "no-suffix"):
        picture.save(tmp_path / name, format={"no-suffix": "png"}.get(name))
    for still in (picture, *sorted(tmp_path.iterdir()), str(tmp_path / "a.png")):
        source = open_video(still)
        assert source.is_still
        (frames,) = read_all(source, Sampling())
        assert frames.timestamps_F.tolist() == [0.0]
        assert media.number_of(frames.pixels_FHWC[0]) == 3


def test_transparent_parts_become_black():
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[:2, :, 3] = 0
    rgba[2:, :, 3] = 255
    (frames,) = read_all(open_video(Image.fromarray(rgba)))
    assert (frames.pixels_FHWC[0, :2] == 0).all()
    assert (frames.pixels_FHWC[0, 2:] == 200).all()


def pairs(count=100, fps=10.0):
    return ((media.numbered(i, 32, 24), i / fps) for i in range(count))


def test_an_iterator_is_sampled_by_time_in_one_pass():
    source = open_video(pairs())
    assert source.times_F is None
    assert source.info.frames is None
    batches = read_all(source, Sampling(fps=2, start=1.0, end=6.0), batch_frames=4)
    assert [len(b) for b in batches] == [4, 4, 2]
    assert np.concatenate([b.timestamps_F for b in batches]).tolist() == [1 + i / 2 for i in range(10)]
    assert np.concatenate([b.indices_F for b in batches]).tolist() == list(range(10, 60, 5))
    with pytest.raises(VideoError, match="only once"):
        read_all(source)


def test_an_iterator_is_never_cut_short_without_an_error():
    source = open_video(pairs())
    with pytest.raises(VideoError, match=r"max_frames=5 frames at 1 fps arrived by 5 s; raise max_frames") as caught:
        read_all(source, Sampling(max_frames=5))
    assert caught.value.code == "limits_frames"
    assert len(np.concatenate([b.indices_F for b in read_all(open_video(pairs()), Sampling(max_frames=10))])) == 10


def test_an_iterator_holds_frames_back_for_whole_groups():
    for count, expected in ((100, 8), (30, 3)):
        source = open_video(pairs(count))
        selection = source.select(Sampling(), whole_groups_of=4)
        assert sum(len(b) for b in source.read(selection, resize=None)) == expected


def test_an_iterator_reads_no_further_than_needed():
    taken = []
    endless = ((media.numbered(0, 16, 8), taken.append(i) or float(i)) for i in iter(int, 1) for i in [len(taken)])
    source = open_video(endless)
    batches = source.read(source.select(Sampling()), resize=None, batch_frames=2)
    assert len(next(batches)) == 2
    assert len(taken) <= 4


@pytest.mark.parametrize("rule", [{"num_frames": 4}, {"max_fps": 2.0}, {"times": (1.0,)}, {"indices": (1,)}])
def test_an_iterator_refuses_settings_that_need_later_frames(rule):
    with pytest.raises(ValueError, match=next(iter(rule))):
        open_video(pairs()).select(Sampling(**rule))


def test_an_iterator_outside_its_range():
    with pytest.raises(VideoError) as caught:
        read_all(open_video(pairs()), Sampling(start=50.0))
    assert caught.value.code == "no_frames_selected"


BAD = {
    "four channels": (lambda: open_video(np.zeros((2, 4, 4, 4), np.uint8)), r"\[F, H, W, 3\]"),
    "one picture": (lambda: open_video(np.zeros((4, 4, 3), np.uint8)), r"\[F, H, W, 3\]"),
    "no frames": (lambda: open_video(np.zeros((0, 4, 4, 3), np.uint8)), "not empty"),
    "no width": (lambda: open_video(np.zeros((1, 4, 0, 3), np.uint8)), "not empty"),
    "int64": (lambda: open_video(np.zeros((1, 4, 4, 3), np.int64)), "uint8"),
    "0..255 floats": (lambda: open_video(np.full((1, 4, 4, 3), 254.0)), "divide by 255"),
    "nan pixels": (lambda: open_video(np.full((1, 4, 4, 3), np.nan)), "0..1"),
    "empty list": (lambda: open_video([]), "no pictures"),
    "list of numbers": (lambda: open_video([1, 2]), "int"),
    "too few times": (lambda: open_video(FRAMES, timestamps=[0, 1]), "6 frames need 6 timestamps, got 2"),
    "times descend": (lambda: open_video(FRAMES, timestamps=[0, 2, 1, 3, 4, 5]), "1 s follows 2 s"),
    "times repeat": (lambda: open_video(FRAMES, timestamps=[0, 1, 1, 3, 4, 5]), "ascend"),
    "nan time": (lambda: open_video(FRAMES, timestamps=[0, 1, 2, 3, 4, float("nan")]), "finite"),
    "negative time": (lambda: open_video(FRAMES, timestamps=[-1, 1, 2, 3, 4, 5]), "0 or more"),
    "nested times": (lambda: open_video(FRAMES, timestamps=[[0, 1], [2, 3]]), "flat list"),
    "fps and times": (lambda: open_video(FRAMES, fps=1, timestamps=range(6)), "not both"),
    "fps zero": (lambda: open_video(FRAMES, fps=0.0), "above 0"),
    "bytes": (lambda: open_video(b"\0\0\0 ftypisom"), "bytes"),
    "a number": (lambda: open_video(5), "int cannot be read"),
    "empty iterator": (lambda: open_video(iter([])), "empty"),
    "no pairs": (lambda: open_video(iter([1])), "pair"),
    "fps of an iterator": (lambda: open_video(pairs(), fps=1), "leave out fps"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_frames_are_refused(case):
    make, message = BAD[case]
    with pytest.raises(VideoError, match=message) as caught:
        make()
    assert caught.value.code == "bad_frames"
    assert "\n" not in str(caught.value)


def test_iterator_times_must_ascend():
    source = open_video(iter([(FRAMES[0], 0.0), (FRAMES[1], 1.0), (FRAMES[2], 0.5)]))
    with pytest.raises(VideoError, match=r"0\.5 s follows 1 s"):
        read_all(source)


def test_bad_picture_files(tmp_path):
    broken = tmp_path / "broken.png"
    Image.fromarray(media.numbered(1)).save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    for bad in (broken, [broken], tmp_path):
        with pytest.raises(VideoError, match=r"broken\.png") as caught:
            open_video(bad)
        assert caught.value.code == "bad_frames"


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    with pytest.raises(VideoError, match=r"9000x9000 exceeds 33\.2 Mpx") as caught:
        open_video(tmp_path / "huge.png")
    assert caught.value.code == "limits_pixels"
    assert open_video(tmp_path / "huge.png", limits=VideoLimits(max_pixels=10**8)).info.width == 9000


def test_an_empty_folder(tmp_path):
    with pytest.raises(VideoError, match="no pictures"):
        open_video(tmp_path)
