"""The same work on a Ray cluster: one actor a GPU, each with a model of its own. This process writes the rows."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic

from videoxl.errors import ManyVideosError, MissingDependencyError, VideoXLError
from videoxl.inference.progress import Progress, as_progress
from videoxl.json_lines import dump_line
from videoxl.line_file import differences
from videoxl.many.record import Json, R
from videoxl.many.row_file import RowFile
from videoxl.many.run import How, Run, one_line
from videoxl.many.sources import VideoJob

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL

CPUS_OF_AN_ACTOR = 4
"""Where there is no GPU."""
STORE_BYTES = 128 * 2**20
"""Of a cluster that is started here: only names and rows travel."""


@dataclass(frozen=True)
class Actors:
    """How many actors work at a time. None: one a GPU, or one for every four CPUs where there is none."""

    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and (isinstance(self.count, bool) or self.count < 1):
            raise ValueError(f"actors must be at least 1, got {self.count!r}")

    def shares(self, resources: Mapping[str, float]) -> tuple[int, float, float]:
        """How many actors, and the CPUs and GPUs of each, in a cluster that has ``resources``."""
        cpus, gpus = int(resources.get("CPU", 1)), resources.get("GPU", 0.0)
        count = self.count or int(gpus) or max(1, cpus // CPUS_OF_AN_ACTOR)
        if gpus:
            return count, 1, 1 if count <= gpus else math.floor(100 * gpus / count) / 100
        return count, max(1, min(CPUS_OF_AN_ACTOR, cpus // count)), 0


class VideoActor(Generic[R]):
    """Holds a model, and does all the work about one video at a time."""

    def __init__(self, how: How[R], load: Callable[[], VideoXL], kind: type[R], before: Json | None) -> None:
        """``before``: settings of the rows that are there. What goes wrong here is told with the first video."""
        self._how, self._kind, self._problem = how, kind, ""
        try:
            self._engine = load()
            self._settings = how.noted(self._engine)
            now = json.loads(dump_line(self._settings))
            if before is not None and (different := differences(before, now)):
                self._problem = f"the output was made with other settings: {'; '.join(different)}"
        except (VideoXLError, ValueError) as error:
            self._problem = one_line(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """``batch``: one item, see :func:`_item`. Gives rows, or a ``problem`` that ends the run, as JSON."""
        if self._problem:
            return {"told": [json.dumps({"problem": self._problem})]}
        try:
            rows = [row.to_dict() for row in self._rows(json.loads(batch["item"][0]))]
        except VideoXLError as error:  # no video's: the disk is full, the storage is gone
            return {"told": [json.dumps({"problem": one_line(error)})]}
        return {"told": [json.dumps({"rows": rows})]}

    def _rows(self, item: Json) -> Iterator[R]:
        job = item["job"]
        file = RowFile(None, self._kind)
        file.take(self._kind.from_json(json.dumps(row).encode()) for row in item["rows"])
        run = Run(
            self._engine,
            [VideoJob(job["video"], tuple(job["questions"]), job["problem"])],
            self._how.work(self._engine),
            reading=self._how.reading,
            settings=self._settings,
            file=file,
            workers=0,
        )
        return run.rows(as_progress(False))


def rows_on_ray(
    jobs: Sequence[VideoJob],
    how: How[R],
    load: Callable[[], VideoXL],
    *,
    file: RowFile[R],
    actors: Actors,
    progress: Progress,
) -> Iterator[R]:
    """Do the work on a cluster, and yield every row, old or new, as it comes. Closes ``file``.

    The cluster is the one of ``RAY_ADDRESS``, or one that is started on this machine. An actor that dies is started
    again, and its video is done again; nothing else is.
    """
    with file:
        told = _started(jobs, how, load, file, actors)
        progress("videos", 0, len(jobs))
        for done, line in enumerate(told, start=1):
            found = json.loads(line["told"])
            if "problem" in found:
                raise ManyVideosError(found["problem"])
            for values in found["rows"]:
                row = file.kind.from_json(json.dumps(values).encode())
                yield row if file.done(row.video, row.key) == row else file.add(row)
            progress("videos", done, len(jobs))


def _started(
    jobs: Sequence[VideoJob], how: How[R], load: Callable[[], VideoXL], file: RowFile[R], actors: Actors
) -> Iterator[Json]:
    ray = require_ray()
    _connect(ray)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    count, cpus, gpus = actors.shares(ray.cluster_resources())
    before: dict[str, list[R]] = defaultdict(list)
    for row in file.rows:
        before[row.video].append(row)
    items = [_item(job, before[job.video]) for job in jobs]
    found: Iterator[Json] = (
        ray.data.from_items(items, override_num_blocks=len(items))  # a block is done again as a whole
        .map_batches(
            VideoActor,
            fn_constructor_args=(how, load, file.kind, file.settings),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(items))),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        .iter_rows()
    )
    return found


def _item(job: VideoJob, rows: Sequence[R]) -> str:
    """A job, and the rows about its video that are there."""
    return json.dumps({"job": asdict(job), "rows": [row.to_dict() for row in rows]})


def require_ray() -> Any:
    """Ray with its data library. Raises :class:`MissingDependencyError`."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        text = f"a run on Ray needs {error.name}: pip install 'videoxl[ray]', or leave out --ray"
        missing = MissingDependencyError(text)
        missing.exit_code = 2  # nothing was begun: an option cannot be honoured
        raise missing from None
    return ray


def _connect(ray: Any) -> None:
    if ray.is_initialized():
        return
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ManyVideosError(f"Ray cannot be started or reached: {one_line(error)}") from error
