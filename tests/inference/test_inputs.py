"""Every kind of input: the same pixels at the same times make the same memory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import videoxl
from tests import media
from videoxl import PartialVideoWarning, VideoError
from videoxl.video import Resize

TIMES = [0.0, 1.0, 2.5, 4.0, 5.5]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([media.numbered(7 * i, 96, 72) for i in range(5)])


@pytest.fixture(scope="module")
def expected(tiny, pictures):
    return tiny.encode(pictures, timestamps=TIMES)


def same_memory(a, b) -> bool:
    layers = zip(a.cache.layers, b.cache.layers)
    bits = all(torch.equal(x.keys, y.keys) and torch.equal(x.values, y.values) for x, y in layers)
    return bits and a.token_ids == b.token_ids and a.timestamps == b.timestamps


def as_folder(pictures, tmp_path):
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{8 + i}.png")  # 8, 9, 10, ...: natural, not alphabetic order
    return tmp_path


FORMS = {
    "array": lambda p, tmp: (p, {"timestamps": TIMES}),
    "channels first": lambda p, tmp: (p.transpose(0, 3, 1, 2), {"timestamps": TIMES}),
    "tensor": lambda p, tmp: (torch.from_numpy(p).permute(0, 3, 1, 2), {"timestamps": TIMES}),
    "float tensor": lambda p, tmp: (torch.from_numpy(p).permute(0, 3, 1, 2) / 255, {"timestamps": TIMES}),
    "list of arrays": lambda p, tmp: (list(p), {"timestamps": TIMES}),
    "list of Pillow images": lambda p, tmp: ([Image.fromarray(x) for x in p], {"timestamps": TIMES}),
    "folder": lambda p, tmp: (as_folder(p, tmp), {"timestamps": TIMES}),
    "folder as text": lambda p, tmp: (str(as_folder(p, tmp)), {"timestamps": tuple(TIMES)}),
    "list of files": lambda p, tmp: ([as_folder(p, tmp) / f"{8 + i}.png" for i in range(5)], {"timestamps": TIMES}),
    "frames keyword": lambda p, tmp: (None, {"frames": p, "timestamps": TIMES}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_pictures_in_another_form_make_the_same_memory(tiny, pictures, expected, tmp_path, form):
    video, options = FORMS[form](pictures, tmp_path)
    assert same_memory(tiny.encode(video, **options), expected)


def test_an_iterator_of_pairs_makes_the_same_memory(tiny, pictures):
    times = [0.0, 1.0, 2.0, 3.0, 4.0]
    pairs = ((picture, t) for picture, t in zip(pictures, times))
    assert same_memory(tiny.encode(pairs), tiny.encode(pictures, timestamps=times))


def test_a_file_is_the_frames_it_shows(tiny, clip):
    with videoxl.open_video(clip) as source:
        selection = source.select(videoxl.Sampling(fps=2), whole_groups_of=4)
        frames = list(source.read(selection, resize=Resize(96, 96)))
    pixels = np.concatenate([f.pixels_FHWC for f in frames])
    decoded = tiny.encode(clip, fps=2)
    shown = tiny.encode(pixels, timestamps=np.concatenate([f.timestamps_F for f in frames]))
    assert same_memory(decoded, shown)
    assert decoded.usage.reader in ("pyav", "torchcodec")


def test_pictures_are_all_read_and_fps_says_when_they_were_taken(tiny, pictures):
    memory = tiny.encode(pictures, fps=2)
    assert memory.timestamps == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert tiny.encode(pictures).timestamps == (0.0, 1.0, 2.0, 3.0, 4.0)


def test_a_single_picture_is_one_frame(tiny, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "still.png")
    memory = tiny.encode(tmp_path / "still.png")
    assert memory.frames == 1
    assert same_memory(memory, tiny.encode(Image.fromarray(pictures[0])))


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"fps": 0.5}, [0, 2, 4, 6]),
        ({"max_frames": 4}, [0, 3.2, 6.4, 9.8]),
        ({"fps": 1, "max_fps": 2, "max_frames": 30}, [i / 2.5 for i in range(24)]),
        ({"num_frames": 4}, [0, 3.2, 6.4, 9.8]),
        ({"start": 4, "end": 8}, [4, 5, 6, 7]),
        ({"start": 9.5}, [9.6]),
        ({"frames": [0, 7, 49]}, [0, 1.4, 9.8]),
        ({"frames": [0.1, 2.0, 2.39]}, [0, 2.0, 2.2]),
        ({"sampling": videoxl.Sampling(fps=5, start=1, end=2)}, [1.0, 1.2, 1.4, 1.6]),
    ],
    ids=str,
)
def test_which_frames_of_a_file_are_read(tiny, clip, settings, times):
    assert tiny.encode(clip, **settings).timestamps == pytest.approx(times, abs=1e-6)


def test_a_limit_that_thins_the_sampling_is_told_with_the_answer(tiny, clip):
    memory = tiny.encode(clip, max_frames=4)
    answer = tiny.ask(memory, "What?", max_new_tokens=1)
    assert answer.warnings == ("10 frames at 1.0 fps exceed max_frames=4: sampled evenly at 0.4 fps",)


def test_what_could_not_be_read_is_told_with_the_answer(tiny, clip, tmp_path):
    damaged = tmp_path / "damaged.ts"
    whole = media.remux(clip, tmp_path / "whole.ts", format="mpegts").read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2] + b"\x47" + b"\xff" * 3000 + whole[len(whole) // 2 + 3001 :])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        memory = tiny.encode(damaged, fps=5)
    partial = [w for w in caught if issubclass(w.category, PartialVideoWarning)]
    answer = tiny.ask(memory, "What?", max_new_tokens=1)
    assert len(partial) >= 1
    assert answer.warnings == memory.warnings != ()
    with pytest.raises(VideoError) as refused:
        tiny.encode(damaged, fps=5, strict=True)
    assert refused.value.code == "partial"


def test_timestamps_are_not_for_files(tiny, clip):
    with pytest.raises(VideoError, match="a video file has its own times"):
        tiny.encode(clip, timestamps=[0.0])


def test_the_system_prompt_is_part_of_the_memory(tiny, pictures):
    plain, other = tiny.encode(pictures), tiny.encode(pictures, system="Be brief.")
    assert tiny.tokenizer.decode(other.token_ids[: other.prefix_length]).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>"
    )
    assert len(plain.token_ids) - plain.prefix_length == len(other.token_ids) - other.prefix_length


def test_frames_may_come_as_a_generator_or_numpy_numbers_and_an_opened_video_stays_open(tiny, clip):
    with videoxl.open_video(clip) as source:
        listed = tiny.encode(source, frames=[0, 5, 10])
        drawn = tiny.encode(source, frames=(n for n in (0, 5, 10)))
        counted = tiny.encode(source, frames=np.array([0, 5, 10]))
    assert listed.timestamps == drawn.timestamps == counted.timestamps
    assert len(listed.timestamps) == 3
