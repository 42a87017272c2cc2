"""How the embedded models are made: every step from random numbers to a folder that ``videoxl.load`` reads.

``tiny`` goes the way of Video-XL-2. What others trained for the released model, a SigLIP and a language model, is
trained here too; the rest are its four stages. ``tiny-v1`` has a language model of its own, and a CLIP that begins with
the SigLIP of ``tiny``, the one made in the same folder or else the one in the package; it learns to read in full, then
through beacons. A step that is done is not done again; one that was interrupted goes on. Steps that need nothing of one
another can be done side by side, and are the same as one after the other. The long ones are shared: two processes read
half of the films each.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import SiglipModel

from recipes.tiny.bank import FeatureBank, Look, filmed, make_bank
from recipes.tiny.curriculum import (
    CAPTIONS,
    CLIP_PICTURES,
    LANGUAGE,
    PICTURES,
    PICTURES_AGAIN,
    PROJECTOR,
    QWEN3_GROUPS,
    QWEN3_JOINED,
    QWEN3_LANGUAGE,
    QWEN3_TOWER,
    ROUND_1,
    ROUND_2,
    ROUND_3,
    SYNTHESIS,
    V1_BEACONS,
    V1_FULL,
    V1_HIDDEN_VIDEO_LAYERS,
    V1_LANGUAGE,
    V1_LONG,
    V1_PROJECTOR,
)
from recipes.tiny.learning import told_in_words
from recipes.tiny.phases import Phase, PromptWriter, Show
from recipes.tiny.qwen3 import (
    as_transformers,
    begin_mergers,
    fresh_qwen3,
    make_clips,
    qwen3_processor,
    show_as,
    two_looks,
)
from recipes.tiny.sizes import ClipPictures, fresh_model, model_config, siglip, take_language, take_tower
from recipes.tiny.training import is_first_process, train_curriculum
from recipes.tiny.vision import VisionPhase, train_vision
from recipes.tiny.words import tokenizer as make_tokenizer
from videoxl.config import TINY, TINY_QWEN3, TINY_V1, BeaconPrefill
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.loading import embedded_folder
from videoxl.model.checkpoint import write_manifest
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.dataset import DataConfig
from videoxl.training.data.mixtures import Source
from videoxl.training.objectives.synthesis import SynthesisPretraining
from videoxl.training.run import run
from videoxl.training.setup import TrainingData, TrainingModel
from videoxl.world import Thing

WHOLE = {"vision_tower": 0.1, "token_synthesis": 1.0, "projector": 1.0, "language_model": 1.0}
"""Shares of the rate where everything learns. The tower, which sees well by then, moves slowly."""
BEHIND_THE_TOWER = {part: share for part, share in WHOLE.items() if part != "vision_tower"}
WITH_BEACONS = {"beacon": 1.0, "projector": 0.2, "language_model": 0.2}
"""The rest moves slowly: what it knows of films longer than these is not to be forgotten."""
BEACONS = BeaconPrefill(ratio=(2, 4, 8), mix="random")
COPIES, SCENERY = 100, 6000
"""Groups kept of every thing, and of scenery."""
LONGEST = 512
"""Groups of the longest films of all curricula."""
DONE = "done.json"


@dataclass(frozen=True)
class Recipe:
    """Where a recipe works, and what it tells of its progress.

    Args:
        scale: share of all steps that is done, for trying it out. Below a tenth, films are fewer and shorter, too.
        shares: how many processes read the films of a shared step. What comes out depends on it, since sums do.
    """

    output: Path
    seed: int = 0
    scale: float = 1.0
    shares: int = 2
    notify: Callable[[str], None] = print

    def steps(self, count: int) -> int:
        return max(1, round(count * self.scale))

    def curriculum(self, phases: Sequence[Phase]) -> list[Phase]:
        share = min(1.0, 10 * self.scale)
        longest = max(16, round(LONGEST * share))
        return [
            replace(
                phase,
                steps=self.steps(phase.steps),
                groups=(min(phase.groups[0], longest), min(phase.groups[1], longest)),
                films=max(2, 2 * round(phase.films * share / 2)) if share < 1 else phase.films,
            )
            for phase in phases
        ]

    def follow(self, steps: Steps, *, processes: int = 1) -> Path:
        """Do what is not done yet, and give the folder of the last step.

        Args:
            processes: how many steps that need nothing of one another are done side by side, at most.

        Raises ``ValueError`` for a folder with steps of another seed or scale, ``RuntimeError`` when a step done beside
        others failed, after those have saved how far they are.
        """
        todo = {name: step for name, step in steps.items() if not self._was_done(name, step)}
        if processes > 1:
            self._side_by_side(todo, processes)
        else:
            for name, step in todo.items():
                self.do(name, step)
        return self.output / list(steps)[-1]

    def _facts(self, step: Step) -> dict[str, float]:
        return {"seed": self.seed, "scale": self.scale, "shares": self.shares if step.shared else 1}

    def _was_done(self, name: str, step: Step) -> bool:
        folder = self.output / name
        if not (folder / DONE).is_file():
            return False
        before = json.loads((folder / DONE).read_text())
        if before != self._facts(step):
            raise ValueError(f"{folder} was made with {before} and this is {self._facts(step)}: name another folder")
        self.notify(f"{name}: done before")
        return True

    def do(self, name: str, step: Step) -> None:
        """One step, whatever was done before."""
        self.notify(f"{name} ...")
        folder = self.output / name
        folder.mkdir(parents=True, exist_ok=True)
        if step.shared and self.shares > 1:
            self._share(step, folder)
        else:
            self._make(step, folder)
        (folder / DONE).write_text(json.dumps(self._facts(step)) + "\n")

    def _share(self, step: Step, folder: Path) -> None:
        """As ``torchrun --standalone`` starts processes. Each does the whole step; training takes its share."""
        with TemporaryDirectory() as failures:  # where processes write what ended them; else they leave it behind
            launch = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=self.shares,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                run_id=uuid4().hex,
                max_restarts=0,
                start_method="spawn",
                logs_specs=DefaultLogsSpecs(failures),
            )
            elastic_launch(launch, _make_share)(self, step, folder)

    def _make(self, step: Step, folder: Path) -> None:
        torch.manual_seed(self.seed)  # whatever was drawn before, too
        step.make(self, folder)

    def _side_by_side(self, todo: dict[str, Step], processes: int) -> None:
        working: dict[str, SpawnProcess] = {}
        try:
            while todo or working:
                open_ = {*todo, *working}
                ready = [name for name, step in todo.items() if not open_.intersection(step.after)]
                for name in ready[: processes - len(working)]:
                    working[name] = get_context("spawn").Process(target=_do, args=(self, name, todo.pop(name)))
                    working[name].start()
                wait([process.sentinel for process in working.values()])
                for name in [name for name, process in working.items() if not process.is_alive()]:
                    if code := working.pop(name).exitcode:
                        raise RuntimeError(f"{name} ended with {code}; what it said is above")
        finally:
            for process in working.values():
                process.terminate()  # a signal upon which training saves how far it is
                process.join()

    def model(self, step: str) -> Any:
        """What a step made."""
        return load(self.output / step / "model")

    @property
    def tiny(self) -> Path:
        """The finished ``tiny``: the one that was made here, or else the one in the package."""
        made = self.output / TINY / "model"
        return made if made.exists() else embedded_folder(TINY)

    def train_pictures(
        self, pictures: Any, tokenizer: Any, phase: VisionPhase, folder: Path, *, round_: int = 0
    ) -> None:
        """Pictures and captions, with a log of how well frames are named."""
        checked = max(50, round(phase.checked * min(1.0, 10 * self.scale)))
        phase = replace(phase, steps=self.steps(phase.steps), checked=checked)
        with (folder / "log.jsonl").open("w", buffering=1) as log:  # can be read while it is written
            for check in train_vision(pictures, tokenizer, phase, seed=self.seed + round_):
                log.write(json.dumps(asdict(check)) + "\n")
                self.notify(f"  step {check.step} of {phase.steps}: {check.whole:.3f} of frames named right")

    def bank(
        self, model: Any, *, copies: int = COPIES, scenery: int = SCENERY, look: Look | None = None
    ) -> FeatureBank:
        """What ``model`` sees of many groups; looked at once for every tower."""
        weights = torch.cat([weight.detach().flatten() for weight in model.model.vision_tower.parameters()])
        seen_by = hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]
        path = self.output / f"groups-{seen_by}{f'-{look.__name__}' if look else ''}.pt"
        if not path.is_file():
            self.notify("  looking at groups of the generated world ...")
            share = min(1.0, self.scale)
            copies, scenery = max(2, round(copies * share)), max(20, round(scenery * share))
            bank = make_bank(model, copies=copies, scenery=scenery, seed=self.seed, look=look)
            part = path.with_suffix(f".{os.getpid()}.part")  # those that share a step all look
            plain = [(None if thing is None else astuple(thing), group) for thing, group in bank.groups.items()]
            torch.save(plain, part)
            part.replace(path)
        stored = torch.load(path, weights_only=True)
        return FeatureBank({None if thing is None else Thing(*thing): group for thing, group in stored})


@dataclass(frozen=True)
class Step:
    """What is to be done, and which steps must have been done before."""

    make: Callable[[Recipe, Path], None]
    """Puts into a folder what it is to hold."""
    after: tuple[str, ...] = ()
    shared: bool = False
    """Whether several processes do it together (:attr:`Recipe.shares`)."""


Steps = dict[str, Step]
"""In an order in which they can be done."""


def _do(recipe: Recipe, name: str, step: Step) -> None:
    torch.set_num_threads(1)
    recipe.do(name, step)


def _make_share(recipe: Recipe, step: Step, folder: Path) -> None:
    torch.set_num_threads(1)
    if not is_first_process():
        recipe = replace(recipe, notify=_silent)
    recipe._make(step, folder)


def _silent(message: str) -> None:
    pass


def load(folder: Path) -> Any:
    """A model to go on with."""
    return VideoXLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def finish(recipe: Recipe, folder: Path, *, after: str, siglip: str | None = None) -> None:
    """A trained model as the package keeps it: half precision, and all that is beside the weights.

    ``siglip``: the step with the SigLIP model that its tower is from, which can tell where to look
    (``relevance="siglip"``).
    """
    target = folder / "model"
    if siglip is not None:
        shutil.copytree(recipe.output / siglip / "model", target / "siglip", dirs_exist_ok=True)
    model = VideoXLForConditionalGeneration.from_pretrained(recipe.output / after / "model", dtype=torch.float16)
    VideoXLProcessor.from_config(model.config, make_tokenizer()).save_pretrained(target)
    model.save_pretrained(target)
    write_manifest(target)


def save_pictures(pictures: SiglipModel, folder: Path) -> None:
    """With a new tokenizer: one that was used remembers how it padded."""
    pictures.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def learn_pictures(recipe: Recipe, folder: Path) -> None:
    """A SigLIP from captioned frames."""
    words = make_tokenizer()
    pictures = siglip(words)
    recipe.train_pictures(pictures, words, PICTURES, folder)
    save_pictures(pictures, folder / "model")


def learn_pictures_again(recipe: Recipe, folder: Path) -> None:
    """The SigLIP goes on, until it tells digits apart."""
    pictures = SiglipModel.from_pretrained(recipe.output / "pictures" / "model", trust_remote_code=False)
    recipe.train_pictures(pictures, make_tokenizer(), PICTURES_AGAIN, folder, round_=1)
    save_pictures(pictures, folder / "model")


def _learn_language(recipe: Recipe, folder: Path, *, curriculum: Sequence[Phase], hidden_video_layers: int) -> None:
    """A language model from films told in words. ``hidden_video_layers``: layers in which questions do not see them."""
    words = make_tokenizer()
    model = fresh_model(model_config(words), words, seed=recipe.seed)
    show = told_in_words(PromptWriter(model.config, words))
    factors = {"language_model": 1.0}
    train_curriculum(
        model,
        words,
        recipe.curriculum(curriculum),
        show,
        folder,
        rate_factors=factors,
        seed=recipe.seed,
        hidden_video_layers=hidden_video_layers,
    )


def stage_1(recipe: Recipe, folder: Path) -> None:
    """Token synthesis, by reconstruction of the features of a frozen tower."""
    words = make_tokenizer()
    model = fresh_model(model_config(words), words, seed=recipe.seed)
    pictures = SiglipModel.from_pretrained(recipe.output / "pictures-again" / "model", trust_remote_code=False)
    take_tower(model, pictures)
    bank = recipe.bank(model)
    steps = recipe.steps(SYNTHESIS.steps)
    config = TrainingConfig(
        name=folder.name,
        model="tiny",
        data=DataConfig(sources=(Source("groups of the generated world"),), seed=recipe.seed),
        objective="synthesis",
        learning_rates={"token_synthesis": SYNTHESIS.rate, "objective": SYNTHESIS.rate},
        max_steps=steps,
        per_device_batch_size=SYNTHESIS.groups,
        warmup_steps=min(40, steps // 4),
        logging_steps=max(1, steps // 20),
        save_steps=500,
        save_total_limit=1,
        seed=recipe.seed,
    )
    start = TrainingModel(model, SynthesisPretraining(model), words, VideoXLProcessor.from_config(model.config, words))
    groups = bank.sample(SYNTHESIS.groups * steps, seed=recipe.seed)
    batches = [list(range(s * SYNTHESIS.groups, (s + 1) * SYNTHESIS.groups)) for s in range(steps)]
    data = TrainingData(groups, collate_groups, lambda epoch, rank, world: [b[rank::world] for b in batches])
    run(config, output=folder, resume=True, model=start, data=data)


def collate_groups(groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Features ``[T, P, C]`` of groups, as the objective of stage 1 takes them."""
    frames = torch.tensor([len(group) for group in groups])
    nothing_said = torch.zeros(len(groups), 0, dtype=torch.long)
    return {"video_features": torch.cat(groups).float(), "frames_per_video": frames, "labels": nothing_said}


def stage_2(recipe: Recipe, folder: Path) -> None:
    """The projector alone, from features kept of a frozen tower."""
    model = recipe.model("stage-1")
    take_language(model, recipe.model("language"))
    show = recipe.bank(model).show
    train_curriculum(
        model,
        make_tokenizer(),
        recipe.curriculum(PROJECTOR),
        show,
        folder,
        rate_factors={"projector": 1.0},
        seed=recipe.seed,
    )


def stage_3(recipe: Recipe, folder: Path) -> None:
    """Everything, from frames and what is to be said of them."""
    model = recipe.model("stage-2")
    show = filmed(model.config.image_size)
    train_curriculum(
        model, make_tokenizer(), recipe.curriculum(CAPTIONS), show, folder, rate_factors=WHOLE, seed=recipe.seed
    )


def _instruct(recipe: Recipe, folder: Path, *, after: str, curriculum: Sequence[Phase], round_: int) -> None:
    """A round of stage 4: instructions on short and long films. Every round has other films; the heads of what was
    before listen on."""
    model = recipe.model(after)
    how: dict[str, Any] = {
        "rate_factors": BEHIND_THE_TOWER,
        "schedule": "cosine",
        "mixed": True,
        "seed": recipe.seed + round_,
    }
    show, phases = recipe.bank(model).show, recipe.curriculum(curriculum)
    train_curriculum(model, make_tokenizer(), phases, show, folder, heads=recipe.output / after, **how)


def _round(after: str, curriculum: Sequence[Phase], round_: int) -> Step:
    return Step(partial(_instruct, after=after, curriculum=curriculum, round_=round_), after=(after,), shared=True)


TINY_STEPS: Steps = {
    "pictures": Step(learn_pictures),
    "language": Step(partial(_learn_language, curriculum=LANGUAGE, hidden_video_layers=0)),
    "pictures-again": Step(learn_pictures_again, after=("pictures",)),
    "stage-1": Step(stage_1, after=("pictures-again",)),
    "stage-2": Step(stage_2, after=("stage-1", "language")),
    "stage-3": Step(stage_3, after=("stage-2",)),
    "stage-4": _round("stage-3", ROUND_1, 1),
    "stage-4.2": _round("stage-4", ROUND_2, 2),
    "stage-4.3": _round("stage-4.2", ROUND_3, 3),
    TINY: Step(partial(finish, after="stage-4.3", siglip="pictures-again"), after=("stage-4.3",)),
}


def _clip(recipe: Recipe) -> ClipPictures:
    pictures = SiglipModel.from_pretrained(recipe.tiny / "siglip", dtype=torch.float32, trust_remote_code=False)
    return ClipPictures(pictures)


def learn_clip(recipe: Recipe, folder: Path) -> None:
    """A CLIP tower from captioned frames, beside the text tower that tiny's SigLIP has."""
    words = make_tokenizer()
    pictures = _clip(recipe)
    recipe.train_pictures(pictures, words, CLIP_PICTURES, folder)
    torch.save(pictures.vision_model.state_dict(), folder / "model.pt")


def stage_v1(recipe: Recipe, folder: Path) -> None:
    """Video-XL: the projector between CLIP and a language model, then both in full, then with beacons."""
    words = make_tokenizer()
    model = fresh_model(model_config(words, TINY_V1), words, seed=recipe.seed)
    pictures = _clip(recipe)
    pictures.vision_model.load_state_dict(torch.load(recipe.output / "v1-pictures" / "model.pt", weights_only=True))
    take_tower(model, pictures)
    take_language(model, recipe.model("v1-language"))
    show = recipe.bank(model).show

    def learn(name: str, curriculum: Sequence[Phase], factors: Mapping[str, float], **how: Any) -> Path:
        output, how = folder / name, {"schedule": "cosine", "mixed": True, "seed": recipe.seed, **how}
        train_curriculum(model, words, recipe.curriculum(curriculum), show, output, rate_factors=factors, **how)
        return output

    heard = learn(
        "projector",
        V1_PROJECTOR,
        {"projector": 1.0},
        heads=recipe.output / "v1-language",
        hidden_video_layers=V1_HIDDEN_VIDEO_LAYERS,
    )
    learn(
        "full",
        V1_FULL,
        {"projector": 1.0, "language_model": 1.0},
        heads=heard,
        hidden_video_layers=V1_HIDDEN_VIDEO_LAYERS,
    )
    take_language(model, model)  # beacons begin as what the rest has become
    learn("", V1_BEACONS, WITH_BEACONS, prefill=BEACONS)


def stage_v1_long(recipe: Recipe, folder: Path) -> None:
    """Long films among short ones, through beacons; other ones than before."""
    model = recipe.model("v1")
    how: dict[str, Any] = {"rate_factors": WITH_BEACONS, "schedule": "cosine", "mixed": True, "prefill": BEACONS}
    show, heads = recipe.bank(model).show, recipe.output / "v1"
    train_curriculum(
        model, make_tokenizer(), recipe.curriculum(V1_LONG), show, folder, seed=recipe.seed + 1, heads=heads, **how
    )


V1_STEPS: Steps = {
    "v1-pictures": Step(learn_clip, after=(TINY,)),
    "v1-language": Step(partial(_learn_language, curriculum=V1_LANGUAGE, hidden_video_layers=V1_HIDDEN_VIDEO_LAYERS)),
    "v1": Step(stage_v1, after=("v1-pictures", "v1-language"), shared=True),
    "v1-long": Step(stage_v1_long, after=("v1",), shared=True),
    TINY_V1: Step(partial(finish, after="v1-long"), after=("v1-long",)),
}


def _begin_qwen3(recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """Tiny, and a Qwen3-VL that begins as it."""
    tiny = load(recipe.tiny).eval().requires_grad_(False)
    return tiny, fresh_qwen3(tiny, make_tokenizer(), make_tokenizer(qwen3=True), folder / "begin")


def learn_tower(recipe: Recipe, folder: Path) -> None:
    """Qwen3-VL's tower learns to show what tiny's shows."""
    tiny, model = _begin_qwen3(recipe, folder)
    clips = make_clips(tiny, max(QWEN3_TOWER.groups, recipe.steps(QWEN3_TOWER.clips)), seed=recipe.seed)
    begin_mergers(model, clips)
    with (folder / "log.jsonl").open("w", buffering=1) as log:
        for losses in show_as(model, clips, QWEN3_TOWER, steps=recipe.steps(QWEN3_TOWER.steps), seed=recipe.seed):
            log.write(json.dumps(losses) + "\n")
            recipe.notify("  " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items()))
    begin_mergers(model, clips)  # they lag behind what stands before them
    model.save_pretrained(folder / "model")


def _read_as_qwen3(
    recipe: Recipe, folder: Path, model: Any, show: Show, curriculum: Sequence[Phase], **how: Any
) -> None:
    train_curriculum(
        model,
        make_tokenizer(qwen3=True),
        recipe.curriculum(curriculum),
        show,
        folder,
        rate_factors={"language_model": 1.0},
        schedule="cosine",
        mixed=True,
        precision="fp32",
        **how,
    )


def learn_qwen3(recipe: Recipe, folder: Path) -> None:
    """The language model learns to read in the form of Qwen3-VL's prompts, from films as tiny sees them."""
    tiny, model = _begin_qwen3(recipe, folder)
    show = recipe.bank(tiny, **QWEN3_GROUPS, look=two_looks).show
    _read_as_qwen3(recipe, folder, model, show, QWEN3_LANGUAGE, seed=recipe.seed)


def join_qwen3(recipe: Recipe, folder: Path) -> None:
    """It goes on with what its own tower shows."""
    model, tower = recipe.model("qwen3-language"), recipe.model("qwen3-tower").model.vision_tower
    model.model.vision_tower.load_state_dict(tower.state_dict())
    show, heads = recipe.bank(model, **QWEN3_GROUPS).show, recipe.output / "qwen3-language"
    _read_as_qwen3(recipe, folder, model, show, QWEN3_JOINED, seed=recipe.seed + 1, heads=heads)


def finish_qwen3(recipe: Recipe, folder: Path) -> None:
    """A trained model as transformers' own class and processor write it, in half precision."""
    words, target = make_tokenizer(qwen3=True), folder / "model"
    as_transformers(recipe.model("qwen3-joined"), words).half().save_pretrained(target)
    qwen3_processor(words).save_pretrained(target)
    write_manifest(target)


QWEN3_STEPS: Steps = {
    "qwen3-tower": Step(learn_tower, after=(TINY,)),
    "qwen3-language": Step(learn_qwen3, after=(TINY,)),
    "qwen3-joined": Step(join_qwen3, after=("qwen3-tower", "qwen3-language"), shared=True),
    TINY_QWEN3: Step(finish_qwen3, after=("qwen3-joined",)),
}
RECIPES = {TINY: TINY_STEPS, TINY_V1: V1_STEPS, TINY_QWEN3: QWEN3_STEPS}
