"""A generated world: films in which things appear, and questions about them that have one certain answer.

    film = sample_film(np.random.default_rng(7), groups=16)
    pixels = Renderer(film).frames(size=48)            # [4 * groups, 48, 48, 3] uint8
    asked = ask(np.random.default_rng(8), film, "when")

Everything follows from seeds; nothing is downloaded. docs/world.md describes it as a data set.
"""

from videoxl.world.film import COLORS, SHAPES, Event, Film, Thing, place_events, sample_film, sample_things
from videoxl.world.questions import KINDS, Question, ask, kinds_for
from videoxl.world.rendering import Renderer
from videoxl.world.writing import write_film, write_world

__all__ = [
    "COLORS",
    "KINDS",
    "SHAPES",
    "Event",
    "Film",
    "Question",
    "Renderer",
    "Thing",
    "ask",
    "kinds_for",
    "place_events",
    "sample_film",
    "sample_things",
    "write_film",
    "write_world",
]
