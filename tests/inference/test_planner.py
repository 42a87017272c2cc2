"""What a run will take is known before it runs."""

from __future__ import annotations

import json
import re
from functools import partial

import numpy as np
import pytest

import videoxl
from tests.conftest import require
from tests.model.builders import pro_model, randomised, small_config, small_model, write_released
from tests.model.random_tiny import tiny_tokenizer
from videoxl import CheckpointError, DoesNotFitError, Sampling
from videoxl.config import prefill_from_string
from videoxl.inference.decode.bilevel import Question, start_from
from videoxl.inference.engine import VideoXL
from videoxl.inference.hardware import KNOWN, hardware
from videoxl.inference.plan import fit, planner
from videoxl.inference.plan.footprint import kv_bytes
from videoxl.inference.plan.model_spec import model_spec
from videoxl.inference.plan.planner import plan
from videoxl.inference.plan.work import weight_bytes
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video.host import free_host_bytes
from videoxl.video.info import DecodingWork

GB = 10**9


@pytest.fixture
def plan_tiny(tiny_folder):
    """Plans for ``tiny`` on a CPU."""
    return partial(plan, model=str(tiny_folder), device="cpu")


@pytest.mark.parametrize(
    "settings",
    [{}, {"fps": 2.5}, {"max_frames": 5}, {"num_frames": 7}, {"start": 3, "end": 4}, {"fps": 1, "max_fps": 4}],
    ids=str,
)
def test_tokens_and_bytes_are_those_of_the_run(plan_tiny, tiny, clip, settings):
    planned = plan_tiny(clip, question="What?", max_new_tokens=9, **settings)
    memory = tiny.encode(clip, **settings)
    answer = tiny.ask(memory, "What?", max_new_tokens=9)
    assert planned.frames == memory.frames
    assert planned.memory_tokens == len(memory.token_ids)
    assert planned.memory_bytes == memory.nbytes
    assert planned.visual_tokens == answer.usage.visual_tokens
    assert planned.timestamp_tokens == len(memory.token_ids) - memory.prefix_length - planned.visual_tokens
    assert planned.question_tokens == answer.usage.prompt_tokens
    assert planned.video_seconds == pytest.approx(memory.duration)
    spare = memory.cache.layers[0].reserved - len(memory.token_ids)
    assert planned.spare_bytes == kv_bytes(tiny.config, spare, 4)
    assert planned.question_bytes == 0  # the question went into the spare capacity


def test_an_answer_longer_than_the_spare_capacity_is_a_copy(plan_tiny, tiny, clip):
    planned = plan_tiny(clip, question="What?", max_new_tokens=3000)
    assert planned.question_bytes == kv_bytes(tiny.config, planned.memory_tokens + planned.question_tokens + 3000, 4)


@pytest.mark.parametrize("decode", ["bilevel:top_k=1,block_size=2", "bilevel:top_k=2,block_size=1,pool=2"])
def test_what_a_mixed_question_takes_is_what_it_holds(plan_tiny, tiny, decode):
    pictures, times = np.zeros((67, 30, 40, 3), np.uint8), list(range(67))
    planned = plan_tiny(pictures, timestamps=times, prefill="chunked", decode=decode, max_new_tokens=5)
    memory = tiny.encode(frames=pictures, timestamps=times, prefill="chunked")
    tail = tiny.chat_format.suffix("Q")
    start = start_from(tiny.model, memory, tiny_decode(decode), Question("Q", tail, len(tail)), reserve=len(tail) + 128)
    (level,) = memory.coarse_kv.values()
    held = level.nbytes + start.cache.nbytes + kv_bytes(tiny.config, planned.question_tokens + 5, 4)
    assert planned.question_bytes == pytest.approx(held, rel=0.02)


def tiny_decode(text):
    return videoxl.config.decode_from_string(text)


def test_what_is_offloaded_is_on_the_host(plan_tiny, tiny):
    pictures = np.zeros((40, 30, 40, 3), np.uint8)
    planned = plan_tiny(pictures, prefill="chunked:offload=True")
    memory = tiny.encode(frames=pictures, prefill="chunked:offload=True")
    assert planned.host_bytes == planned.memory_bytes == memory.nbytes
    assert "host        " in str(planned)


def test_weights_are_counted_exactly(plan_tiny, tiny, clip):
    assert plan_tiny(clip).weight_bytes == sum(p.numel() * 4 for p in tiny.model.parameters())
    assert plan_tiny(clip, dtype="bf16").weight_bytes == sum(p.numel() * 2 for p in tiny.model.parameters())


def test_pictures_and_arrays_are_planned_like_files(plan_tiny, tiny):
    pictures = np.zeros((9, 30, 40, 3), np.uint8)
    for settings in ({}, {"fps": 3}, {"num_frames": 5}, {"frames": [1, 4, 8]}, {"timestamps": list(range(2, 20, 2))}):
        planned = plan_tiny(pictures, **settings)
        memory = tiny.encode(pictures, **settings)
        assert (planned.frames, planned.memory_tokens) == (memory.frames, len(memory.token_ids))
        assert planned.seconds["decode"] == 0


def test_a_folder_is_planned_by_its_own_config(clip, tmp_path):
    model = small_model()
    folder = write_released(tmp_path / "m", model)
    planned = plan(clip, model=str(folder), device="cpu")
    engine = videoxl.load(str(folder), device="cpu")
    memory = engine.encode(clip)
    assert (planned.memory_tokens, planned.memory_bytes) == (len(memory.token_ids), memory.nbytes)
    assert planned.weight_bytes == sum(p.numel() * 4 for p in model.parameters())


@pytest.mark.parametrize("prefill", [None, "selective:keep=0.4", "full"])
def test_video_xl_pro_is_planned_by_what_it_keeps(clip, tmp_path, prefill):
    model = pro_model()
    folder = write_released(tmp_path / "pro", model)
    planned = plan(clip, model=str(folder), device="cpu", prefill=prefill)
    memory = videoxl.load(str(folder), device="cpu").encode(clip, prefill=prefill)
    assert planned.prefill == memory.prefill
    assert (planned.memory_tokens, planned.memory_bytes) == (len(memory.token_ids), memory.nbytes)
    assert planned.visual_tokens == memory.usage.visual_tokens == 2 * 36
    assert planned.weight_bytes == sum(p.numel() * 4 for p in model.parameters())


@pytest.mark.parametrize("settings", [{}, {"fps": 5}, {"num_frames": 7}], ids=str)
@pytest.mark.parametrize(
    "prefill", ["beacon", "beacon:ratio=3", "beacon:ratio=2+4+8,mix=random,seed=5", "beacon:ratio=2+8,mix=adaptive"]
)
def test_video_xl_is_planned_by_its_beacons(clip, settings, prefill):
    config = small_config(
        family="video-xl",
        vision={"model_type": "clip_vision_model", "patch_size": 7},
        frames_per_group=1,
        token_grid=4,
        vision_select_layer=-2,
        time_format="",
        beacon_param=("q", "k", "v"),
        beacon_window=16,
        beacon_ratio=(4,),
    )
    engine = VideoXL(randomised(VideoXLForConditionalGeneration(config)).eval(), tiny_tokenizer())
    memory = engine.encode(clip, prefill=prefill, **settings)
    strategy = prefill_from_string(prefill)
    made = planner.make_plan(
        config,
        engine.chat_format,
        list(memory.timestamps),
        decoding=DecodingWork(),
        where=KNOWN["h200"],
        weights=0,
        itemsize=4,
        prefill=strategy,
    )
    assert (made.memory_tokens, made.memory_bytes) == (len(memory.token_ids), memory.nbytes)


def test_a_strategy_changes_what_fits_and_how_long_it_takes():
    plans = {name: made(20_000, KNOWN["rtx-4090"], prefill=name) for name in ("full", "chunked")}
    assert plans["chunked"].seconds["prefill"] < plans["full"].seconds["prefill"] / 4
    assert plans["chunked"].memory_tokens == plans["full"].memory_tokens


def test_the_released_model_on_a_named_gpu(clip):
    planned = plan(clip, model="BAAI/Video-XL-2", device="h200")
    assert planned.weight_bytes == 2 * (8_136_720_160 - 12_848_640)
    assert planned.device == "h200"
    assert planned.visual_tokens == 2 * 144
    assert planned.memory_tokens == 14 + 2 * (144 + len("T 0.0s:"))
    assert planned.memory_bytes == planned.memory_tokens * 2 * 28 * 4 * 128 * 2
    assert planned.fits
    assert planned.advice is None
    assert "sizes of the released model" in planned.notes[0]


def made(
    seconds: int, where: planner.Hardware, weights: int = 16 * GB, prefill: str = "full", decode: str = "dense"
) -> planner.Plan:
    """A plan for the released model, one frame a second."""
    spec, times = model_spec("BAAI/Video-XL-2"), [float(t) for t in range(seconds)]
    return planner.make_plan(
        spec.config,
        spec.chat_format,
        times,
        decoding=DecodingWork(),
        where=where,
        weights=weights,
        itemsize=2,
        prefill=prefill_from_string(prefill),
        decode=tiny_decode(decode),
    )


def test_hours_of_video_on_a_small_gpu_do_not_fit_and_the_advice_does():
    too_long = made(20_000, KNOWN["rtx-4090"])
    assert not too_long.fits
    frames = too_long.frames_that_fit
    assert too_long.advice.startswith(f"at most {frames:,} frames fit: lower max_frames")
    assert made(frames, KNOWN["rtx-4090"]).fits
    assert not made(frames + 40, KNOWN["rtx-4090"]).fits


def test_ways_to_read_all_of_it_are_named():
    two_hours = made(7_200, KNOWN["rtx-4090"])
    assert not two_hours.fits
    assert two_hours.advice.endswith(
        "all of them fit with prefill='chunked:offload=True,vision_batch=6' and decode='bilevel:pool=12'"
    )
    offloaded = made(7_200, KNOWN["rtx-4090"], prefill="chunked:offload=True,vision_batch=6", decode="bilevel:pool=12")
    assert offloaded.fits
    assert offloaded.host_bytes == offloaded.memory_bytes > 15 * GB


def long_video(device: str, **settings) -> planner.Plan:
    """Ten thousand frames, one a second, read by Video-XL-2 chunk by chunk."""
    video = np.broadcast_to(np.zeros((), np.uint8), (10_000, 4, 4, 3))
    return plan(video, fps=1, max_frames=10_000, model="BAAI/Video-XL-2", prefill="chunked", device=device, **settings)


def test_small_weights_and_small_keys_let_a_24_gb_card_read_10000_frames():
    plain = long_video("rtx-4090")
    assert not plain.fits
    assert "all of them fit with quantization='nf4' and kv_dtype='int8', or with prefill=" in plain.advice
    small = long_video("rtx-4090", quantization="nf4", kv_dtype="int8")
    assert small.fits
    assert small.weight_bytes < 7 * GB
    assert small.unrounded_weight_bytes == pytest.approx(3.2 * GB, rel=0.01)  # embeddings, head, vision side
    assert small.memory_bytes == pytest.approx(plain.memory_bytes * (128 + 4) / (2 * 128))
    assert "weights 6.87 GB in nf4 (3.20 GB of them as they are)" in str(small)
    rounded = long_video("rtx-4090", quantization="int8", kv_dtype="int8")
    assert rounded.frames_that_fit > 8_000


def test_smaller_cards_are_told_what_they_can_do():
    sixteen, twelve = long_video("rtx-4080"), long_video("rtx-3060")
    assert "all frames fit with quantization='nf4' and prefill='chunked:offload=True" in sixteen.advice
    assert twelve.advice.startswith("the weights leave no room")
    assert re.search(r"; [1-9],\d{3} frames fit with quantization='nf4' and prefill='chunked:offload", twelve.advice)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_small_weights_are_counted_as_bitsandbytes_holds_them(tmp_path, kind):
    require("bitsandbytes")
    text = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2}
    folder = write_released(tmp_path / "wide", small_model(text=text))
    engine = videoxl.load(str(folder), device="cpu", quantization=kind)
    held = 0
    for module in engine.model.modules():
        for parameter in module.parameters(recurse=False):
            held += parameter.numel() * parameter.element_size()
            state = getattr(parameter, "quant_state", None)
            held += 0 if state is None else state.absmax.numel() * 4
            scales = getattr(parameter, "SCB", None)
            held += 0 if scales is None else scales.numel() * 4
    assert weight_bytes(engine.config, engine.model.dtype.itemsize, kind) == held
    assert fit.quantization_of(engine.model) == kind


def test_configs_of_transformers_are_counted_or_refused_by_name(clip):
    require("bitsandbytes")
    from transformers import BitsAndBytesConfig, FineGrainedFP8Config

    for config, name in (
        (BitsAndBytesConfig(load_in_8bit=True), "int8"),
        (BitsAndBytesConfig(load_in_4bit=True), "nf4"),
    ):
        assert plan(clip, device="h200", quantization=config) == plan(clip, device="h200", quantization=name)
    with pytest.raises(ValueError, match="does not know how many bytes weights take with FineGrainedFP8Config: it"):
        plan(clip, model="tiny", quantization=FineGrainedFP8Config())


def test_weights_that_leave_no_room_are_told_apart():
    advice = made(60, planner.Hardware("toy", 8 * GB, 1e12, 2)).advice
    assert advice.startswith("the weights leave no room: use a quantised model or a device with ")


def test_a_plan_reads_as_text_and_as_data(plan_tiny, clip):
    planned = plan_tiny(clip, max_frames=4)
    text = str(planned)
    assert text.splitlines()[0].startswith("frames      4 over 10.0 s of video")
    assert "fits        yes" in text
    assert "note        10 frames at 1.0 fps exceed max_frames=4" in text
    data = json.loads(json.dumps(planned.to_dict()))
    kept = planned.weight_bytes + planned.memory_bytes + planned.spare_bytes
    assert data["total_bytes"] == kept + max(planned.question_bytes + planned.asking_bytes, planned.working_bytes)
    assert (data["fits"], data["advice"]) == (True, None)


def test_nothing_is_decoded_for_a_plan(plan_tiny, clip, monkeypatch):
    monkeypatch.setattr("videoxl.video.decoder.source.FileSource.read", None)
    assert plan_tiny(clip).frames == 8


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "somebody/some-model"}, CheckpointError, "not a model whose sizes are known"),
        ({"prefill": "chunky"}, ValueError, "unknown prefill strategy"),
        ({"prefill": videoxl.DenseDecode()}, ValueError, "prefill must be a prefill strategy"),
        ({"device": "abacus"}, ValueError, "unknown device 'abacus'; allowed: auto, cpu, cuda, cuda:1, mps, h200"),
        ({"num_frames": 3, "fps": 1}, ValueError, "cannot be combined"),
        ({"loudness": 3}, ValueError, "loudness"),
        ({"quantization": "int3"}, ValueError, "unknown quantization 'int3'; allowed: int8, nf4"),
        ({"kv_dtype": "int4"}, ValueError, "unknown kv_dtype 'int4'; allowed: auto, int8, fp8"),
        (
            {"kv_dtype": "int8", "prefill": "chunked:offload=true", "model": "tiny"},
            ValueError,
            "kv_dtype='int8' is for keys and values on the GPU",
        ),
    ],
)
def test_a_plan_of_nothing_is_refused(clip, settings, error, message):
    with pytest.raises(error, match=message):
        plan(clip, **settings)


def test_an_iterator_cannot_be_planned():
    with pytest.raises(ValueError, match="length of an iterator is not known"):
        plan(iter([(np.zeros((4, 4, 3), np.uint8), 0.0)]))


def test_a_run_that_does_not_fit_is_refused_before_decoding_and_says_what_fits(plan_tiny, tiny, clip, monkeypatch):
    planned = plan_tiny(clip)
    free = planned.total_bytes - planned.weight_bytes - planned.memory_bytes // 2
    monkeypatch.setattr(fit, "free_device_bytes", lambda device: free)
    monkeypatch.setattr("videoxl.video.decoder.source.FileSource.read", None)
    with pytest.raises(
        DoesNotFitError, match=r"8 frames are \d+ tokens and need .* about \d+ frames fit: lower max_frames"
    ):
        tiny.encode(clip)
    monkeypatch.setattr(fit, "free_device_bytes", lambda device: 1000)
    with pytest.raises(DoesNotFitError, match="nothing fits: free memory or use a quantised model"):
        tiny.encode(clip)


def test_known_hardware_and_this_machine():
    assert 100 * GB < hardware("h200").free_bytes < 141 * GB
    here = hardware("cpu")
    assert here.flops > 1e8
    assert 0 < here.free_bytes <= free_host_bytes() * 1.5
    assert str(Sampling()) == "fps=1.0,max_frames=2048"


def test_seconds_of_decoding_follow_the_cores_that_can_share_it(plan_tiny, clip):
    host = planner.Hardware("toy", 8 * GB, 1e12, 16)
    alone = host.decoding_seconds(DecodingWork(28_500, 1))
    assert alone == pytest.approx(100)
    assert host.decoding_seconds(DecodingWork(28_500, 4)) == pytest.approx(alone / 4)
    assert host.decoding_seconds(DecodingWork(28_500, 100)) == pytest.approx(alone / 16)
    few, many = (plan_tiny(clip, num_frames=count).seconds["decode"] for count in (2, 40))
    assert 0 < few < many
