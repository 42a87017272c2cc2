"""Write films of the generated world, with annotations of what they show, for ``videoxl eval grounding``.

    python -m videoxl.evaluation.grounding_films runs/films --films 50 --groups 8,32 --seed 900

The annotations have the form of TimeLens-Bench. Ask about them with ``--prompt world``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from videoxl.evaluation.log import write_json
from videoxl.world import sample_film, write_film

SIZE = 96
"""Width and height in pixels; the embedded models see 48."""


def write_films(folder: Path, films: int, groups: tuple[int, int], seed: int) -> Path:
    """Write ``folder/videos/*.mp4`` at one frame a second and ``folder/events.json``, and return the latter.

    Film ``n`` is drawn at random from ``(seed, n)``. Films that show nothing are left out. ``groups``: shortest and
    longest film, in groups of four frames.
    """
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    annotations = {}
    for number in range(films):
        generator = np.random.default_rng((seed, number))
        length = int(generator.integers(groups[0], groups[1] + 1))
        film = sample_film(generator, length, step=4.0, begin=0.0)
        if not film.events:
            continue
        name = f"{number:05d}"
        write_film(film, folder / "videos" / f"{name}.mp4", size=SIZE)
        annotations[name] = {
            "duration": film.duration,
            "spans": [[film.time_of(event.start), film.time_of(event.end)] for event in film.events],
            "queries": [event.thing.name for event in film.events],
        }
    target = folder / "events.json"
    write_json(target, annotations)
    return target


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=50)
    parser.add_argument("--groups", default="8,32", help="shortest and longest film, in groups of four frames")
    parser.add_argument("--seed", type=int, default=900, help="training begins with 0")
    given = parser.parse_args(arguments)
    shortest, longest = (int(part) for part in given.groups.split(","))
    print(write_films(given.folder, given.films, (shortest, longest), given.seed))


if __name__ == "__main__":
    main()
