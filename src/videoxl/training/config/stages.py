"""The stages of the released systems, each a function that returns a whole config, the next made from the one before.

Where a number comes from:

* ``scripts/pretrain.sh``, ``finetune_i.sh`` and ``finetune_v.sh`` of Video-XL, ``Video-XL-2/train/scripts/
  finetune_stage3.sh`` and ``finetune_stage4.sh`` (github.com/VectorSpaceLab/Video-XL): learning rates, batches,
  accumulation, epochs, warm-up, cosine, no weight decay, bf16, gradient checkpointing, frames, pictures, templates,
  lengths, ratios (also SPEC 2.7), workers, steps between checkpoints. Rates are the same for all parts that are trained
  there: the scripts name a single one. :mod:`videoxl.training.config.released` lists every setting beside ours.
* Stages 1 and 2 of Video-XL-2 were never published. Their numbers are our choice and say so.
* ``max_grad_norm`` is the Trainer's default, since the scripts do not say. They keep one checkpoint; we keep two
  (``save_total_limit``), so that a damaged one can be passed over.

Scripts run on eight GPUs (``finetune_stage3.sh`` says so; the others are silent), so a step there is eight times what
``per_device_batch_size`` and ``gradient_accumulation_steps`` make on one. A stage names its data by the file that lists
them, which everybody writes for their own: ``--set data.mixture=FILE``. A stage begins with the weights in the folder
``runs/STAGE/model`` of the stage before, unless ``--set model=...`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from videoxl.config import BeaconPrefill, Sampling
from videoxl.training.config.data import DataConfig
from videoxl.training.config.training import TrainingConfig

CROPS_OF_VIDEO_XL = tuple((336 * i, 336 * j) for i in range(1, 50) for j in range(1, 50) if 1 < i * j <= 49)
"""All grids of 2 to 49 crops of 336 pixels: the list that both scripts write out."""
OUTPUT = "runs"
"""Folder that a stage writes to, and in which the next one looks for the weights it begins with."""


def trained(stage: str) -> str:
    """The folder of a stage's model, if it was trained without ``--output``."""
    return f"{OUTPUT}/{stage}/model"


def video_xl_pretrain() -> TrainingConfig:
    """Video-XL, first: the projector learns to make visual tokens that Qwen2 understands, from captions.

    ``pretrain.sh``: rate 5e-4 on ``mm_mlp_adapter`` alone, batch 8, accumulation 4, a frame a second up to four, one
    epoch, the centre square of pictures (``image_aspect_ratio square``) with all of its tokens, and the ``plain``
    template: a picture and its caption without a chat. There are no beacons yet.
    """
    return TrainingConfig(
        name="video_xl_pretrain",
        model="Qwen/Qwen2-7B-Instruct",
        vision_tower="openai/clip-vit-large-patch14-336",
        data=DataConfig(
            mixture="data/video_xl_pretrain.yaml",
            sampling=Sampling(fps=1.0, max_frames=4),
            max_length=32768,
            template="plain",
            image_aspect_ratio="square",
            patch_merge_type="flat",
            num_workers=4,
        ),
        learning_rates={"projector": 5e-4},
        per_device_batch_size=8,
        gradient_accumulation_steps=4,
        num_train_epochs=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        precision="bf16",
        gradient_checkpointing=True,
        save_steps=1000,
    )


def video_xl_finetune_image() -> TrainingConfig:
    """Video-XL, second: all weights learn, beacons among them, on images of many crops.

    ``finetune_i.sh``: rate 1e-5 on everything (``unfreeze_mm_vision_tower``), batch 1, accumulation 8, ratios 2 4 8 12
    16 drawn per window (``step-random``), windows of 1,440 tokens, samples of one modality and length together.
    Pictures are cut into up to 49 crops (:data:`CROPS_OF_VIDEO_XL`) whose tokens are averaged 2x2 (``unires``). Beacons
    begin as copies of the ordinary projections (SPEC 2.8). The script begins with Qwen2 and the file of the projector;
    so does ``--set model=Qwen/Qwen2-7B-Instruct --set vision_tower=openai/clip-vit-large-patch14-336 --set
    projector_weights=mm_projector.bin``.
    """
    before = video_xl_pretrain()
    return replace(
        before,
        name="video_xl_finetune_image",
        model=trained("video_xl_pretrain"),
        vision_tower=None,
        data=replace(
            before.data,
            mixture="data/video_xl_finetune_image.yaml",
            sampling=Sampling(),
            template="released",
            image_aspect_ratio="anyres",
            image_grid_pinpoints=CROPS_OF_VIDEO_XL,
            patch_merge_type="unires",
            group_by_length=True,
        ),
        learning_rates=dict.fromkeys(("vision_tower", "projector", "language_model", "beacon"), 1e-5),
        prefill=BeaconPrefill(ratio=(2, 4, 8, 12, 16), mix="random", window=1440),
        per_device_batch_size=1,
        gradient_accumulation_steps=8,
    )


def video_xl_finetune_video() -> TrainingConfig:
    """Video-XL, third: videos of up to 128 frames beside the images.

    ``finetune_v.sh``: ratios 2 4 8, three epochs. That script begins, like the one for images, with Qwen2 and the
    pretrained projector; to begin with the model of the image stage is the order the paper tells of, and our choice.
    """
    before = video_xl_finetune_image()
    return replace(
        before,
        name="video_xl_finetune_video",
        model=trained("video_xl_finetune_image"),
        data=replace(
            before.data, mixture="data/video_xl_finetune_video.yaml", sampling=Sampling(fps=1.0, max_frames=128)
        ),
        prefill=BeaconPrefill(ratio=(2, 4, 8), mix="random", window=1440),
        num_train_epochs=3.0,
    )


def video_xl_2_stage1() -> TrainingConfig:
    """Video-XL-2, stage 1: token synthesis learns to keep what four frames show.

    Unpublished; :mod:`videoxl.training.objectives.synthesis` says what is learnt and why. All numbers are our choice: a
    rate of 1e-4 for freshly drawn convolutions and attention under AdamW; 16 frames, as stage 3 reads; 64 frames a step
    on one GPU, enough for stable averages, since every token is a target. No text is learnt, so none is needed in the
    records but the placeholder.
    """
    return TrainingConfig(
        name="video_xl_2_stage1",
        model="Qwen/Qwen2.5-7B-Instruct",
        vision_tower="google/siglip-so400m-patch14-384",
        data=DataConfig(
            mixture="data/video_xl_2_stage1.yaml",
            sampling=Sampling(fps=1.0, max_frames=16),
            image_aspect_ratio="square",
            num_workers=8,
        ),
        objective="synthesis",
        learning_rates={"token_synthesis": 1e-4, "objective": 1e-4},
        per_device_batch_size=4,
        gradient_accumulation_steps=1,
        num_train_epochs=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        precision="bf16",
        save_steps=1000,
    )


def video_xl_2_stage2() -> TrainingConfig:
    """Video-XL-2, stage 2: the projector learns, from captions, as in Video-XL's first stage.

    Unpublished. Rate, batch, the square of pictures and learning captions alone are those of Video-XL's
    ``pretrain.sh``, within the chat format of the later stages; 16 frames are those of stage 3.
    """
    before, projector = video_xl_2_stage1(), video_xl_pretrain()
    return replace(
        before,
        name="video_xl_2_stage2",
        model=trained("video_xl_2_stage1"),
        vision_tower=None,
        data=replace(before.data, mixture="data/video_xl_2_stage2.yaml", max_length=8192, labels="answers"),
        objective="language",
        learning_rates=projector.learning_rates,
        per_device_batch_size=projector.per_device_batch_size,
        gradient_accumulation_steps=projector.gradient_accumulation_steps,
        gradient_checkpointing=True,
    )


def video_xl_2_stage3() -> TrainingConfig:
    """Video-XL-2, stage 3: all weights learn, on captions of images and of short videos.

    ``finetune_stage3.sh``: rate 1e-5 on everything, batch 1, accumulation 8, one frame a second up to 16, 8,192 tokens,
    eight workers, ZeRO-1 on eight GPUs (``--set sharding=zero1``), and pictures in up to 36 crops
    (``image_grid_pinpoints "(1x1)...(6x6)"``, ``unires``). The script begins with Qwen2.5, SigLIP, ``dts.pth`` and the
    file of the projector: ``token_synthesis_weights``, ``projector_weights``.
    """
    before = video_xl_2_stage2()
    return replace(
        before,
        name="video_xl_2_stage3",
        model=trained("video_xl_2_stage2"),
        data=replace(
            before.data,
            mixture="data/video_xl_2_stage3.yaml",
            labels="released",
            template="released",
            image_aspect_ratio="anyres",
            image_grid_pinpoints="(1x1)...(6x6)",
            patch_merge_type="unires",
            group_by_length=True,
        ),
        learning_rates=dict.fromkeys(("vision_tower", "token_synthesis", "projector", "language_model"), 1e-5),
        per_device_batch_size=1,
        gradient_accumulation_steps=8,
    )


def video_xl_2_stage4() -> TrainingConfig:
    """Video-XL-2, stage 4: instructions, on longer videos.

    ``finetune_stage4.sh``: one to four frames a second up to 150, 6,000 tokens, six workers, a checkpoint every 200
    steps. With ``--set prefill=chunked:chunk_size=16,step_size=4`` under the mask that chunked prefill reads with.
    """
    before = video_xl_2_stage3()
    return replace(
        before,
        name="video_xl_2_stage4",
        model=trained("video_xl_2_stage3"),
        data=replace(
            before.data,
            mixture="data/video_xl_2_stage4.yaml",
            sampling=Sampling(fps=1.0, max_fps=4.0, max_frames=150),
            max_length=6000,
            num_workers=6,
        ),
        save_steps=200,
    )


STAGES: dict[str, Callable[[], TrainingConfig]] = {
    stage.__name__: stage
    for stage in (
        video_xl_pretrain,
        video_xl_finetune_image,
        video_xl_finetune_video,
        video_xl_2_stage1,
        video_xl_2_stage2,
        video_xl_2_stage3,
        video_xl_2_stage4,
    )
}
"""Name -> stage. The command line, the docs and the tests iterate over this table."""
