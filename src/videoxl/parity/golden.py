"""Read a folder of golden cases: ``cases.json`` and safetensors files of expected arrays.

Such a folder ships no weights. Every weight and every random input is a function of a seed, a name and a shape; the
rule is in the folder's README and is repeated here. This code looks at the ``kind`` of a case, never at its name.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import safe_open
from safetensors.numpy import save_file

from videoxl.errors import VideoXLError

Json = dict[str, Any]
"""An object of ``cases.json``. What it holds depends on the kind of its case."""
Numbers: TypeAlias = ArrayLike | torch.Tensor | None
"""What can be compared; None is a miss."""

TABLE_NAMES = (
    "embed_tokens.weight",
    "position_embedding.weight",
    "class_embedding",
    "temporal_encoding",
    "embeddings_table",
    "image_newline",
)
QUERY_KEY_NAMES = ("q_proj.weight", "k_proj.weight", *(f"encoder.{i}.{p}.weight" for i in (0, 3) for p in "qk"))


class GoldenError(VideoXLError):
    """The folder holds no golden cases, or is damaged."""

    exit_code = 2
    code = "golden_invalid"


class MissingArrayError(GoldenError):
    """A case lacks an array that it, or its check, needs."""


def random_source(seed: int, name: str) -> np.random.Generator:
    """Return a PCG64 generator, keyed by the first 16 bytes of sha256("seed:name"), little endian."""
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
    return np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))


def weight(seed: int, name: str, shape: list[int]) -> np.ndarray:
    """Return one parameter: offset + scale x standard normal. Its name and shape choose offset and scale."""
    fan_in = math.prod(shape[1:])
    offset = 0.0
    if name.endswith("bias"):
        scale = 0.1
    elif len(shape) == 1 and name.endswith("weight"):
        offset, scale = 1.0, 0.1
    elif name.endswith(TABLE_NAMES):
        scale = 0.5
    elif name.endswith("lm_head.weight"):
        scale = 2.0 / math.sqrt(fan_in)
    elif name.endswith(QUERY_KEY_NAMES):
        scale = 1.5 / math.sqrt(fan_in)
    else:
        scale = 1.0 / math.sqrt(fan_in)
    return (offset + scale * random_source(seed, name).standard_normal(tuple(shape))).astype(np.float32)


def noise(seed: int, name: str, shape: list[int]) -> np.ndarray:
    """Return a float input (pixels or activations): standard normal."""
    return random_source(seed, f"input:{name}").standard_normal(tuple(shape)).astype(np.float32)


def picture(seed: int, name: str, height: int, width: int) -> np.ndarray:
    """Return an 8-bit RGB test picture ``[height, width, 3]``: an 8x8 mosaic with fine noise."""
    source = random_source(seed, f"input:{name}")
    mosaic = source.integers(0, 256, (8, 8, 3)).astype(np.int64)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    grain = source.integers(-40, 41, (height, width, 3))
    pixels: np.ndarray = np.clip(mosaic[np.ix_(rows, columns)] + grain, 0, 255).astype(np.uint8)
    return pixels


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Return a sha256 over names, dtypes, shapes and bytes, sorted by name. It shows a changed random generator."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        flat = np.ascontiguousarray(array)
        total.update(f"{name}|{flat.dtype.str}|{','.join(str(n) for n in flat.shape)}|".encode())
        total.update(flat.tobytes())
    return total.hexdigest()


@dataclass
class Comparison:
    """The worst error of one array. ``share``: of what its tolerance allows; above 1 is a miss."""

    array: str
    error: float
    share: float
    detail: str = ""


@dataclass
class Case:
    """One case and what has been compared of it."""

    folder: Path
    spec: Json
    model: Json | None
    comparisons: list[Comparison] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        return str(self.spec["id"])

    @property
    def seed(self) -> int:
        return int(self.spec["seed"] if "seed" in self.spec else self.needs_model()["seed"])

    def needs_model(self) -> Json:
        if self.model is None:
            raise GoldenError(f"case {self.id} names the model {self.spec.get('model')!r}, which cases.json lacks")
        return self.model

    @property
    def tolerance(self) -> tuple[float, float]:
        """The tolerance as (atol, rtol); exact is (0, 0)."""
        given = self.spec["tolerance"]
        return (0.0, 0.0) if given == "exact" else (float(given["atol"]), float(given["rtol"]))

    def has(self, name: str) -> bool:
        return name in self.spec.get("arrays", {})

    def expected(self, name: str) -> np.ndarray:
        """Return a recorded array. Raises :class:`MissingArrayError` if the file or the array is missing."""
        self.read.add(name)
        path = self.folder / str(self.spec.get("file"))
        if not path.is_file():
            raise MissingArrayError(f"file {path.name} is missing")
        with safe_open(path, "np") as file:
            key = f"{self.id}/{name}"
            if key not in file.keys():  # noqa: SIM118
                raise MissingArrayError(f"array {name} is missing from {path.name}")
            array: np.ndarray = file.get_tensor(key)
            return array

    def compare(self, name: str, actual: Numbers) -> None:
        """Compare with the recorded array ``name``."""
        self.compare_values(name, actual, self.expected(name))

    def compare_values(self, name: str, actual: Numbers, expected: ArrayLike) -> None:
        """Compare numbers; integers and tolerance "exact" must agree exactly."""
        got, want = np.asarray(actual), np.asarray(expected)
        if got.shape != want.shape:
            self.comparisons.append(Comparison(name, math.inf, math.inf, f"shape {got.shape}, expected {want.shape}"))
            return
        atol, rtol = self.tolerance if want.dtype.kind == "f" else (0.0, 0.0)
        difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
        error = float(difference.max(initial=0.0))
        if not np.isfinite(difference).all():
            error = math.inf
        allowed = atol + rtol * np.abs(want.astype(np.float64))
        share = math.inf if error == math.inf else _worst_share(difference, allowed)
        self.comparisons.append(Comparison(name, error, share))

    def compare_equal(self, name: str, actual: object, expected: object) -> None:
        """Compare values that must be equal."""
        same = actual == expected
        detail = "" if same else f"got {str(actual)[:120]!r}, expected {str(expected)[:120]!r}"
        self.comparisons.append(Comparison(name, 0.0 if same else math.inf, 0.0 if same else math.inf, detail))

    def pixels(self) -> np.ndarray:
        """Return the case's float pictures ``[n, 3, H, W]``, checked against their digest."""
        given = self.spec["pixels"]
        made = noise(self.seed, given["name"], given["shape"])
        self.check_digest(given["name"], {"pixels": made}, given["sha256"])
        return made

    def check_digest(self, what: str, arrays: dict[str, np.ndarray], expected: str) -> None:
        if digest(arrays) != expected:
            raise GoldenError(f"{what} comes out differently from its recorded digest: the random rule has drifted")


def _worst_share(difference: np.ndarray, allowed: np.ndarray) -> float:
    """Return the largest ratio of error to allowed error. It is infinite for an error where none is allowed."""
    if difference.size == 0:
        return 0.0
    share = np.divide(difference, allowed, out=np.where(difference > 0, np.inf, 0.0), where=allowed > 0)
    return float(share.max())


@dataclass
class GoldenFolder:
    """A folder of cases."""

    folder: Path
    models: Json
    cases: list[Json]

    @classmethod
    def open(cls, folder: Path) -> GoldenFolder:
        """Read ``cases.json``. Raises :class:`GoldenError` if ``folder`` has no readable one."""
        path = folder / "cases.json"
        if not path.is_file():
            raise GoldenError(f"{folder} has no cases.json: not a folder of golden cases")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, found["models"], found["cases"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise GoldenError(f"{path} is damaged ({type(error).__name__}: {error})") from None

    def case(self, spec: Json) -> Case:
        return Case(self.folder, spec, self.models.get(str(spec.get("model"))))


def write_checkpoint(target: Path, model: Json, extra_config: Json, dropped: tuple[str, ...] = ()) -> None:
    """Write a model of a golden folder as a checkpoint in the released layout.

    Parameters whose name contains one of ``dropped`` are left out.
    """
    weights = {name: weight(model["seed"], name, shape) for name, shape in model["params"].items()}
    if digest(weights) != model["params_sha256"]:
        raise GoldenError("the weights come out differently from their recorded digest: the random rule has drifted")
    weights = {name: array for name, array in weights.items() if not any(part in name for part in dropped)}
    tower = target / "vision_tower"
    tower.mkdir(parents=True)
    config = {**model["config"], **extra_config, "mm_vision_tower": "vision_tower"}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tower / "config.json").write_text(json.dumps(model["vision_config"]), encoding="utf-8")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
