"""How many kernels, waits and copies each part may cost on the simulated device. Tighten them when a part gets better.

Counts are per layer of the language model, since every layer does the same.
"""

from __future__ import annotations

VISION_LAUNCHES = 800
"""Vision tower, token synthesis and projector, per tile of 96 frames."""
LAYER_LAUNCHES = {
    "full": 25,
    "selective": 25,
    "chunked": 60,
    "chunked:offload=true": 60,
    "beacon:ratio=8": 450,
}
"""Per layer and tile of 96 frames, by prefill."""
TOKEN_LAUNCHES = 18
"""Per layer and token of an answer."""
TOKEN_OTHER_LAUNCHES = 20
"""Per token, outside of layers: embedding, positions, head, choice and its likelihood."""
TOKEN_WAITS = 1
"""Per token, at most."""
TOGETHER_LAUNCHES = 60
"""Per layer and step of several questions about one memory."""
PLAN_TOLERANCE = 0.03
"""Share by which ``plan`` may be above the peak. It is never below."""
MASKED_SHARE = 0.02
"""Most of the attention FLOPs that may run under a mask."""
QUESTION_BYTES = 1.15
"""Bytes that a question of 30 tokens moves, in weights and keys and values read once."""
TOGETHER_BYTES = 1.3
"""Bytes a step of 16 questions moves, in those of one question's."""
CARD_COPIES_PER_TILE = 6
"""Tensors that go from card to card for a tile, where layers lie on two: hidden states, positions, timestamps."""
CARD_COPIES_PER_TOKEN = 4
"""The same for a token: in, out, positions."""
