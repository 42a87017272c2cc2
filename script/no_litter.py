"""Refuse files that do not belong into the repository: caches, checkpoints of notebooks, anything above 1 MB.

The weights of the embedded models may be larger.
"""

import re
import sys
from pathlib import Path

LITTER = re.compile(r"(__pycache__|\.ipynb_checkpoints|\.egg-info|\.DS_Store$|\.pyc$)")
WEIGHTS = re.compile(r"^src/videoxl/embedded/[^/]+/model\.safetensors$")
LARGEST, LARGEST_WEIGHTS = 1_000_000, 10_000_000


def too_large(path: str) -> bool:
    largest = LARGEST_WEIGHTS if WEIGHTS.match(path) else LARGEST
    return Path(path).is_file() and Path(path).stat().st_size > largest


bad = [path for path in sys.argv[1:] if LITTER.search(path) or too_large(path)]
for path in bad:
    print(f"{path}: does not belong into the repository (cache, or too large)")
sys.exit(bool(bad))
