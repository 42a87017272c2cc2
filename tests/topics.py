"""A model of meaning that knows a few words."""

from __future__ import annotations

import numpy as np

TOPICS = {"dog": 0, "puppy": 0, "car": 1, "lorry": 1, "rain": 2, "storm": 2}


class Topics:
    """Turns a text into the topics that its words belong to."""

    name, fingerprint = "topics", "f1"

    def of_question(self, text: str) -> np.ndarray:
        vector = np.full(96, 0.01, np.float32)
        for word in text.lower().split():
            if word in TOPICS:
                vector[TOPICS[word]] += 1
        return vector / np.linalg.norm(vector)
