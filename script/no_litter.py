"""Refuse files that do not belong into the repository: caches, checkpoints of notebooks, anything above 1 MB."""

import re
import sys
from pathlib import Path

LITTER = re.compile(r"(__pycache__|\.ipynb_checkpoints|\.egg-info|\.DS_Store$|\.pyc$)")
LARGEST = 1_000_000

bad = [p for p in sys.argv[1:] if LITTER.search(p) or (Path(p).is_file() and Path(p).stat().st_size > LARGEST)]
for path in bad:
    print(f"{path}: does not belong into the repository (cache, or above {LARGEST / 1e6:g} MB)")
sys.exit(bool(bad))
