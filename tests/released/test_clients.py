"""What people wrote against the released packages runs, on checkpoints in the released layouts of all families.

The calls are those of public clients: model cards and quick starts, evaluation harnesses, benchmark scripts.
"""

from __future__ import annotations

import base64
import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TextStreamer

import videoxl
from tests import media
from tests.model.builders import pro_model, small_beacon_model, small_model, write_released
from videoxl.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from videoxl.conversation import SeparatorStyle, conv_templates
from videoxl.demo_utils import generate_response, load_image_processor, load_video, process_video
from videoxl.mm_utils import (
    KeywordsStoppingCriteria,
    expand2square,
    get_model_name_from_path,
    load_image_from_base64,
    process_images,
    tokenizer_image_token,
    transform_input_id,
)
from videoxl.model.builder import load_pretrained_model
from videoxl.released.image_processors import image_processor_of
from videoxl.utils import disable_torch_init, rank0_print

pytestmark = pytest.mark.filterwarnings("ignore:flash_attention_2 is not available here")

MAKERS = {"video-xl": small_beacon_model, "video-xl-2": small_model, "video-xl-pro": pro_model}
QUESTION = "What is happening in this video?"
SMALL = {"max_num_frames": 8, "sample_fps": 1, "max_sample_fps": 4}
CARD = {"do_sample": False, "temperature": 0.01, "top_p": 0.001, "num_beams": 1, "use_cache": True, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(media.write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=15, fps=5))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("released")
    return {name: write_released(place / name, make()) for name, make in MAKERS.items()}


@pytest.fixture(scope="module", params=MAKERS)
def loaded(request, folders):
    """As scripts load: tokenizer, model, image processor; in full precision, which is quicker here."""
    disable_torch_init()
    found = load_pretrained_model(
        str(folders[request.param]), None, "llava_qwen", device_map="cpu", torch_dtype="float32", multimodal=True,
        attn_implementation="flash_attention_2",
    )  # fmt: skip
    return found[:3]


def prompt_of(question: str = QUESTION, answer: str = "") -> str:
    conversation = conv_templates["qwen_1_5"].copy()
    conversation.append_message(conversation.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{question}")
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt() + answer


def inputs_of(loaded, clip: str, question: str = QUESTION, frames: int = 8, answer: str = "") -> dict:
    """Keywords of ``generate``, as evaluation scripts make them."""
    tokenizer, model, image_processor = loaded
    video, times = process_video(clip, tokenizer, image_processor, model.device, frames)
    ids = tokenizer_image_token(prompt_of(question, answer), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
    keywords = {"inputs": ids.unsqueeze(0), "images": [video], "modalities": ["video"]}
    return keywords if model.config.has_beacons else {**keywords, "time_embedding": times}


def new_ids(loaded, clip: str, frames: int = 8, **settings) -> list[list[int]]:
    """The answers' ids. Video-XL returns the expanded prompt before them, as released; the others do not."""
    inputs = inputs_of(loaded, clip, frames=frames)
    out = loaded[1].generate(**inputs, **{"max_new_tokens": 6, **settings})
    out = out if isinstance(out, torch.Tensor) else out.sequences
    config = loaded[1].config
    if config.has_beacons:
        head = transform_input_id(inputs["inputs"], frames * config.tokens_per_group, config.vocab_size - 1)
        assert (out[:, : head.shape[1]] == head).all()
        out = out[:, head.shape[1] :]
    return out.tolist()


def engine_ids(loaded, clip: str, **settings) -> list[int]:
    """The same through the engine."""
    engine = videoxl.VideoXL(loaded[1], loaded[0])
    answer = engine.answer(clip, QUESTION, num_frames=8, **{"max_new_tokens": 6, **settings})
    return list(answer.token_ids)


# ------------------------------------------------------------------------------------------- loading and small helpers


def test_a_checkpoint_of_every_family_loads_as_scripts_load_it(loaded):
    tokenizer, model, image_processor = loaded
    model.eval()
    model.tie_weights()
    tower = model.get_vision_tower()
    assert tower.is_loaded
    tower.load_model()
    assert tower.to(device=model.device, dtype=torch.float32) is tower
    assert type(tower.image_processor) is type(image_processor) is type(load_image_processor(model, tokenizer))
    assert model.get_model() is model.model
    assert model.get_model().config is model.config
    pixels = tower.image_processor.preprocess(np.zeros((2, 40, 30, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, tower.image_size, tower.image_size)
    assert tower(pixels).shape == (2, tower.num_patches, tower.hidden_size)
    with pytest.raises(ValueError, match=r"the vision tower is torch\.float32 as its model is: load the model with"):
        tower.to(dtype=torch.float16)


def test_image_processors_make_the_engines_pixels(loaded, clip):
    frames, times = load_video(clip, 4)
    made = loaded[2].preprocess(list(frames), return_tensors="pt")["pixel_values"]
    config = loaded[1].config
    with videoxl.open_video(clip) as source:
        resize = videoxl.inference.video_input.picture_size(source, config.image_size, config.frame_fit)
        chosen = source.select(videoxl.Sampling(num_frames=4))
        pixels = np.concatenate([part.pixels_FHWC for part in source.read(chosen, resize=resize)])
    mean, std = (torch.tensor(list(v)).view(1, 3, 1, 1) for v in (config.image_mean, config.image_std))
    wanted = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    assert torch.allclose(made, wanted, atol=1e-5)
    assert times == [0.0, 0.8, 1.8, 2.8]


@pytest.mark.parametrize("name", ["video-xl", "video-xl-2"])
def test_image_processors_refuse_pictures_that_would_become_black(name):
    processor = image_processor_of(MAKERS[name]().config)
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    wanted = processor.preprocess(list(frames), return_tensors="pt")["pixel_values"]
    mixed = [Image.fromarray(frames[0]), torch.from_numpy(frames[1])]
    for same in (frames, mixed, frames.transpose(0, 3, 1, 2)):
        assert torch.equal(processor.preprocess(same, return_tensors="pt")["pixel_values"], wanted)
    for black in (frames / 255, list(frames.astype(np.float32) / 255), frames > 100):
        with pytest.raises(ValueError, match="would become almost black: give uint8"):
            processor.preprocess(black, return_tensors="pt")
    with pytest.raises(ValueError, match="there are no pictures to prepare"):
        processor.preprocess([], return_tensors="pt")


def test_conversations_are_the_prompts_of_the_model_cards():
    assert prompt_of("Why?") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    conversation = copy.deepcopy(conv_templates["qwen_1_5"])
    conversation.append_message(conversation.roles[0], "One?")
    conversation.append_message(conversation.roles[1], "Yes.")
    conversation.messages[1][1] = "No."
    stop = conversation.sep if conversation.sep_style != SeparatorStyle.TWO else conversation.sep2
    assert conversation.get_prompt().endswith("<|im_start|>assistant\nNo.<|im_end|>\n")
    assert stop == "<|im_end|>"
    assert conv_templates["qwen_1_5"].messages == []
    with pytest.raises(
        KeyError, match="no conversation template 'vicuna_v1': Video-XL models were trained with qwen_1_5"
    ):
        conv_templates["vicuna_v1"]
    with pytest.raises(ValueError, match="role must be one of"):
        conversation.append_message("user", "x")


def test_small_helpers(capsys):
    wide = Image.new("RGB", (4, 2), (9, 9, 9))
    square = np.asarray(expand2square(wide, (1, 2, 3)))
    assert square.shape == (4, 4, 3)
    assert square[0, 0].tolist() == square[3, 3].tolist() == [1, 2, 3]
    assert square[1, 0].tolist() == square[2, 3].tolist() == [9, 9, 9]
    assert np.asarray(expand2square(Image.new("L", (3, 6)), 7))[0].tolist() == [7, 0, 0, 0, 7, 7]
    assert expand2square(Image.new("L", (2, 2)), 0).mode == "L"
    file = io.BytesIO()
    wide.save(file, "PNG")
    assert load_image_from_base64(base64.b64encode(file.getvalue()).decode()).size == (4, 2)
    assert get_model_name_from_path("a/b/checkpoint-500/") == "b_checkpoint-500"
    rank0_print("once", 2)
    assert capsys.readouterr().out == "once 2\n"


# -------------------------------------------------------------------------------------------------- generate, settings


def test_generate_gives_the_engines_answers(loaded, clip):
    assert new_ids(loaded, clip, do_sample=False, temperature=0.0, top_p=None, top_k=None) == [engine_ids(loaded, clip)]
    sampled = {"do_sample": True, "temperature": 1.0, "seed": 4}
    assert new_ids(loaded, clip, **sampled) == [engine_ids(loaded, clip, **sampled)]
    assert new_ids(loaded, clip, num_beams=3) == [engine_ids(loaded, clip, num_beams=3)]


NOTHING = [
    {"length_penalty": 1.0, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "top_k": 0, "min_new_tokens": 0}
    | {"pad_token_id": 0, "num_return_sequences": 1, "early_stopping": False, "return_dict_in_generate": False},
    {"typical_p": 0.5, "top_p": 0, "temperature": 0}  # without do_sample
    | {"use_cache": False, "image_sizes": [(3, 4)], "generation_config": GenerationConfig(num_beams=1)},
    {"max_time": 1000.0, "bad_words_ids": None},
]


@pytest.mark.parametrize("settings", NOTHING, ids=str)
def test_settings_that_change_nothing(loaded, clip, settings):
    assert new_ids(loaded, clip, **settings) == new_ids(loaded, clip)


def test_settings_of_transformers_are_honoured(loaded, clip):
    greedy = new_ids(loaded, clip, max_new_tokens=12)[0]
    banned = new_ids(loaded, clip, bad_words_ids=[[greedy[0]]])[0]
    assert greedy[0] not in banned
    assert new_ids(loaded, clip, suppress_tokens=[greedy[0]])[0] == banned
    ngrams = new_ids(loaded, clip, no_repeat_ngram_size=1, max_new_tokens=12)[0]
    assert len(set(ngrams)) == 12
    for ends in (greedy[0], [greedy[0]]):
        assert new_ids(loaded, clip, eos_token_id=ends, pad_token_id=0, max_new_tokens=12)[0] == greedy[:1]
    kept = new_ids(loaded, clip, eos_token_id=greedy[0], min_new_tokens=4, max_new_tokens=4)[0]
    assert len(kept) == 4
    assert greedy[0] not in kept
    assert new_ids(loaded, clip, generation_config=GenerationConfig(max_new_tokens=3))[0][:3] == greedy[:3]
    several = new_ids(loaded, clip, num_beams=3, num_return_sequences=2)
    assert len(several) == 2
    assert several[0] == new_ids(loaded, clip, num_beams=3)[0] != several[1]
    out = loaded[1].generate(
        **inputs_of(loaded, clip), max_new_tokens=2, return_dict_in_generate=True, output_logits=True
    )
    assert len(out.logits) == 2


def test_lengths_count_the_expanded_prompt(loaded, clip):
    model, inputs = loaded[1], inputs_of(loaded, clip)
    engine = videoxl.VideoXL(model, loaded[0])
    visual = engine.encode(clip, num_frames=8, prefill="full")
    total = len(visual.token_ids) + len(engine.chat_format.suffix(QUESTION))
    assert len(new_ids(loaded, clip, max_new_tokens=None, max_length=total + 2, min_new_tokens=2)[0]) == 2
    with pytest.raises(ValueError, match=f"max_length={total} counts the prompt, which has {total} tokens"):
        model.generate(**inputs, max_length=total)


def test_sampling_in_transformers_leaves_the_global_random_state_alone(loaded, clip):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(new_ids(loaded, clip, do_sample=True, typical_p=0.9, num_return_sequences=2))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert new_ids(loaded, clip, do_sample=True, typical_p=0.9, num_return_sequences=2, seed=5) != found[0]


def test_streamers_keywords_and_stop_strings(loaded, clip, capsys):
    tokenizer = loaded[0]
    greedy = new_ids(loaded, clip, max_new_tokens=12)[0]
    keyword = tokenizer.decode(greedy[:2])
    for settings in ({}, {"no_repeat_ngram_size": 99}):
        inputs = inputs_of(loaded, clip)
        criterion = KeywordsStoppingCriteria([keyword], tokenizer, inputs["inputs"])
        assert new_ids(loaded, clip, stopping_criteria=[criterion], max_new_tokens=12, **settings)[0] == greedy[:2]
        streamer = TextStreamer(tokenizer, skip_prompt=True)
        loaded[1].generate(**inputs, streamer=streamer, max_new_tokens=12, **settings)
        assert capsys.readouterr().out.strip() == tokenizer.decode(greedy).strip()
    letters = [tokenizer.decode([token]) for token in greedy]
    place = next(number for number, letter in enumerate(letters) if letter.isascii() and letter.isprintable())
    stopped = new_ids(loaded, clip, stop_strings=[letters[place]], tokenizer=tokenizer, max_new_tokens=12)[0]
    assert stopped == greedy[: place + 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lenght_penalty": 1.0}, "unknown generation setting lenght_penalty.*did you mean length_penalty"),
        ({"gt_frame_idx": [3]}, "unknown generation setting gt_frame_idx"),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be a finite number above 0"),
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1"),
        ({"stop": "x"}, "stop needs a tokenizer"),
        ({"cache_implementation": "static"}, "cannot hold a video"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "Contrastive Search requires"),
        ({"num_beams": 2, "streamer": TextStreamer(None)}, "streamer"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",  # the same in every process
)
def test_settings_that_cannot_be_are_refused(folders, clip, settings, message):
    found = load_pretrained_model(str(folders["video-xl"]), torch_dtype="float32")
    with pytest.raises(ValueError, match=message):
        found[1].generate(**inputs_of(found[:3], clip, frames=4), **settings)


def test_an_answer_may_begin_in_the_prompt(loaded, clip):
    inputs = inputs_of(loaded, clip, answer="Best Option: (")
    assert loaded[1].generate(**inputs, max_new_tokens=3).shape[1] >= 3


def test_a_still_image_and_its_crops(loaded):
    tokenizer, model, image_processor = loaded
    config = copy.copy(model.config)
    config.image_aspect_ratio, config.image_grid_pinpoints = "anyres", [[28, 56], [56, 28], [56, 56]]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    crops = process_images([image], image_processor, config)
    assert crops.shape == (1, 5, 3, 28, 28)
    ids = tokenizer_image_token(prompt_of(), tokenizer, return_tensors="pt")[None]
    found = [
        model.generate(ids, images=given, image_sizes=[image.size], modalities=["image"], max_new_tokens=3).tolist()
        for given in (crops, [crops[0]], list(crops))
    ]
    assert found[0] == found[1] == found[2]


# ------------------------------------------------------------------------------------------------------- time_embedding


def test_the_numbers_of_the_released_scripts_stand_for_the_models_own(folders, clip):
    """Scripts write 144 times 151654 for a group; this model has 9 visual tokens and another id."""
    tokenizer, model, processor, _ = load_pretrained_model(str(folders["video-xl-2"]), torch_dtype="float32")
    frames, times = load_video(clip, 6)
    ids: list[int] = []
    for time in times[::4]:
        ids += tokenizer(f"Time {time}s:").input_ids
        ids += [151654] * 144
    video = processor.preprocess(list(frames), return_tensors="pt")["pixel_values"]
    prompt = tokenizer_image_token(prompt_of(), tokenizer, return_tensors="pt")[None]
    out = model.generate(
        prompt, images=[video], time_embedding=[torch.tensor(ids)], modalities=["video"], prev_blocks_num=None,
        block_size_chosed=None, max_new_tokens=6,
    )  # fmt: skip
    engine = videoxl.VideoXL(model, tokenizer)
    memory = engine.encode(frames, timestamps=times)
    assert out[0].tolist() == list(engine.ask(memory, QUESTION, max_new_tokens=6).token_ids)
    chunked = model.generate(
        prompt, images=[video], time_embedding=[torch.tensor(ids)], modalities=["video"], prev_blocks_num=3,
        block_size_chosed=4, max_new_tokens=6,
    )  # fmt: skip
    memory = engine.encode(frames, timestamps=times, prefill=videoxl.ChunkedPrefill.from_blocks(4, 3))
    assert chunked[0].tolist() == list(engine.ask(memory, QUESTION, max_new_tokens=6).token_ids)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (None, "time_embedding is missing"),
        ([torch.tensor([5, 151654])], "has timestamps of 1 groups, and 8 frames are 2 groups of 4"),
        ([torch.tensor([151654, 151654])], "a timestamp and then placeholders"),
        ([torch.tensor([5, 151654, 6])], "a timestamp and then placeholders"),
        ([torch.tensor([5.0])], "a list of one tensor of ids"),
        ([torch.tensor([5]), torch.tensor([6])], "a list of one tensor of ids"),
    ],
    ids=str,
)
def test_time_embeddings_that_cannot_be_are_refused(folders, clip, embedding, message):
    found = load_pretrained_model(str(folders["video-xl-2"]), torch_dtype="float32")
    inputs = {**inputs_of(found[:3], clip), "time_embedding": embedding}
    with pytest.raises(ValueError, match=message):
        found[1].generate(**inputs)


def test_timestamps_are_not_for_video_xl(folders, clip):
    found = load_pretrained_model(str(folders["video-xl"]), torch_dtype="float32")
    with pytest.raises(ValueError, match="Video-XL has neither timestamps nor blocks: leave time_embedding out"):
        found[1].generate(**inputs_of(found[:3], clip), time_embedding=[torch.tensor([5, 151654])])
    with pytest.raises(AttributeError, match=r"model\.memory\.query_suffix cannot be set"):
        found[1].memory.query_suffix = "x"


# --------------------------------------------------------------------------------------- Video-XL-Pro's own quick start


def test_the_helpers_of_video_xl_pro_in_both_forms(folders, clip):
    path = str(folders["video-xl-pro"])
    model = AutoModelForCausalLM.from_pretrained(
        path, low_cpu_mem_usage=True, torch_dtype=torch.float16, attn_implementation="flash_attention_2",
        device_map="cpu", trust_remote_code=True,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    before = len(tokenizer)
    image_processor = load_image_processor(model, tokenizer)
    assert len(tokenizer) == before
    settings = {"do_sample": True, "temperature": 0.01, "top_p": 0.001, "num_beams": 1, "max_new_tokens": 6}
    early = process_video(clip, image_processor, model.device, 8)
    late, times = process_video([clip], tokenizer, image_processor, model.device, 8, settings)
    assert late.dtype == torch.float16
    assert torch.equal(early, late)
    answers = [
        generate_response(model, tokenizer, prompt_of(), early, settings),
        generate_response(model, tokenizer, prompt_of(), late, times, settings),
        generate_response(model, tokenizer, prompt_of(), video_tensor=late, time_stamps=times, gen_kwargs=settings),
    ]
    engine = videoxl.VideoXL(model, tokenizer)
    assert set(answers) == {engine.answer(clip, QUESTION, num_frames=8, max_new_tokens=6).text}


def test_helpers_refuse_what_cannot_be(folders, clip):
    with pytest.raises(ValueError, match="needs the image processor that load_image_processor returns, got str"):
        process_video(clip, "x", "cpu", 8)
    with pytest.raises(ValueError, match="max_frames_num must be a whole number of at least 1, got 0"):
        load_video(clip, 0)
    with pytest.raises(videoxl.VideoError):
        load_video("missing.mp4", 4)


# ----------------------------------------------------------------------------------------------------------------- chat


@pytest.fixture(scope="module")
def chatting(folders):
    model = AutoModelForCausalLM.from_pretrained(folders["video-xl-2"])
    return model, AutoTokenizer.from_pretrained(folders["video-xl-2"])


def chat(chatting, clip, settings=None, **given):
    model, tokenizer = chatting
    return model.chat(clip, tokenizer, QUESTION, return_history=False, generation_config=settings, **{**SMALL, **given})


def test_the_earlier_script_of_the_model_card(folders, chatting, clip):
    """With AutoModel, ``.to(dtype)``, and chunks switched on under the earlier names."""
    path = str(folders["video-xl-2"])
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = AutoModel.from_pretrained(
        path, trust_remote_code=True, device_map="cpu", quantization_config=None, attn_implementation="sdpa"
    ).to(torch.float32)
    assert AutoConfig.from_pretrained(path, trust_remote_code=True).family == "video-xl-2"
    model.config.enable_sparse = False
    assert chat((model, tokenizer), clip, CARD) == chat(chatting, clip, CARD)
    model.config.enable_sparse, model.config.sparse_mode = True, "streaming"
    model.config.sparse_config = {"block_size_chosed": 1, "prev_blocks_num": 0}
    sparse = chat((model, tokenizer), clip, CARD)
    engine = videoxl.VideoXL(model, tokenizer)
    memory = engine.encode(clip, fps=1, max_fps=4, max_frames=8, prefill="chunked:chunk_size=1,step_size=1")
    assert sparse == engine.ask(memory, QUESTION, max_new_tokens=6).text
    model.config.sparse_config = {"blocks": 3}
    with pytest.raises(ValueError, match=r"model\.config\.sparse_config has unknown keys blocks"):
        chat((model, tokenizer), clip, CARD)


def test_a_prefill_config_in_mode_mask_may_ask_for_offload(chatting, clip, monkeypatch):
    given = {"chunk_prefill_mode": "mask", "chunk_size": 4, "step_size": 1, "offload": True}
    monkeypatch.setattr(chatting[0].config, "enable_chunk_prefill", True, raising=False)
    monkeypatch.setattr(chatting[0].config, "prefill_config", given, raising=False)
    with pytest.warns(UserWarning, match="'offload' has no effect in mode 'mask'"):
        masked = chat(chatting, clip, CARD)
    monkeypatch.setattr(chatting[0].config, "prefill_config", {**given, "chunk_prefill_mode": "streaming"})
    assert chat(chatting, clip, CARD) == masked
    assert given["offload"] is True


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": None, "top_p": None, "top_k": None, "do_sample": False},
        {"temperature": 0.0, "pad_token_id": 0, "length_penalty": 1.0},
        {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "use_cache": True},
    ],
    ids=str,
)
def test_chat_takes_settings_that_change_nothing(chatting, clip, settings):
    assert chat(chatting, clip, {"max_new_tokens": 6, **settings}) == chat(chatting, clip, {"max_new_tokens": 6})


def test_chat_honours_settings_of_transformers(chatting, clip):
    found = loaded_ids = None
    model, tokenizer = chatting
    processor = model.get_vision_tower().image_processor
    for settings in ({"no_repeat_ngram_size": 1}, {"num_beams": 2, "length_penalty": 2.0}, {"bad_words_ids": [[258]]}):
        settings = {**settings, "max_new_tokens": 6}
        found = chat(chatting, clip, settings, sample_fps=None)
        loaded_ids = generated_like_chat((tokenizer, model, processor), clip, settings)
        assert found == tokenizer.decode(loaded_ids, skip_special_tokens=True).strip()
        assert chat(chatting, clip, GenerationConfig(**settings), sample_fps=None) == found


def generated_like_chat(loaded, clip: str, settings) -> list[int]:
    tokenizer, model, processor = loaded
    frames, times = load_video(clip, 8)
    video = processor.preprocess(list(frames), return_tensors="pt")["pixel_values"]
    ids = [token for time in times[::4] for token in [*tokenizer(f"Time {time}s:").input_ids, 151654]]
    prompt = tokenizer_image_token(prompt_of(), tokenizer, return_tensors="pt")[None]
    out = model.generate(prompt, images=[video], time_embedding=[torch.tensor(ids)], modalities=["video"], **settings)
    return out[0].tolist()


def test_chat_stops_before_a_stop_string(chatting, clip):
    whole = chat(chatting, clip, {"max_new_tokens": 6})
    stop = "H"
    assert whole.find(stop) > 0
    for settings in ({"stop": stop}, {"stop_strings": [stop]}, {"stop": stop, "num_beams": 1, "min_new_tokens": 1}):
        assert chat(chatting, clip, {"max_new_tokens": 6, **settings}) == whole[: whole.find(stop)].strip()


@pytest.mark.parametrize("name", ["num_return_sequences", "output_scores", "return_dict_in_generate"])
def test_chat_refuses_what_it_cannot_return(chatting, clip, name):
    with pytest.raises(ValueError, match=f"chat returns the text of one answer and has no place for {name}"):
        chat(chatting, clip, {name: 2 if name == "num_return_sequences" else True, "do_sample": True})


def test_a_history_of_the_released_code_is_understood(chatting, clip):
    ours = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Yes."}]
    released = [
        {"role": "<|im_start|>user", "content": "<image>\nOne?"},
        {"role": "<|im_start|>assistant", "content": "Yes."},
    ]
    assert chat(chatting, clip, CARD, chat_history=released) == chat(chatting, clip, CARD, chat_history=ours)


def test_a_video_in_a_list_is_that_video(chatting, clip):
    assert chat(chatting, [clip], CARD) == chat(chatting, clip, CARD)


@pytest.mark.parametrize("name", ["video-xl", "video-xl-pro"])
def test_every_family_chats_as_its_engine_answers(folders, clip, name):
    model = AutoModelForCausalLM.from_pretrained(folders[name])
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    found = chat((model, tokenizer), clip, {"max_new_tokens": 6})
    engine = videoxl.VideoXL(model, tokenizer)
    assert found == engine.answer(clip, QUESTION, fps=1, max_fps=4, max_frames=8, max_new_tokens=6).text


# -------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reload_enable": True, "reload_top_k": 3}, "load_pretrained_model does not know reload_enable, reload_top_k"),
        ({"model_base": "x"}, "merge adapters into the model first"),
        ({"overwrite_config": {"mm_spatial_pool_mode": "none"}}, "pool_mode must be"),
    ],
    ids=str,
)
def test_loading_refuses_by_name(folders, options, message):
    with pytest.raises((ValueError, videoxl.CheckpointError), match=message):
        load_pretrained_model(str(folders["video-xl"]), **options)


def test_loading_takes_old_keywords(folders):
    found = load_pretrained_model(
        str(folders["video-xl-2"]), model_name=get_model_name_from_path(str(folders["video-xl-2"])), device="cpu",
        use_flash_attention_2=True, low_cpu_mem_usage=True, torch_dtype=torch.float32,
        overwrite_config={"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "average"},
    )  # fmt: skip
    assert found[1].dtype == torch.float32
    assert found[3] == 4096
    again = load_pretrained_model(str(folders["video-xl-2"]), customized_config=str(folders["video-xl-2"]))
    assert again[1].dtype == torch.float16


def test_flash_attention_that_is_not_there_is_said(folders):
    with pytest.warns(UserWarning, match="flash_attention_2 is not available here: attention is computed with sdpa"):
        AutoModelForCausalLM.from_pretrained(folders["video-xl"], attn_implementation="flash_attention_2")
