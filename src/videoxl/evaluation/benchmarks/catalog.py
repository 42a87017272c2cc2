"""All benchmarks that are read from their own files, by name."""

from __future__ import annotations

from videoxl.evaluation.benchmarks.longvideobench import LONGVIDEOBENCH
from videoxl.evaluation.benchmarks.lvbench import LVBENCH
from videoxl.evaluation.benchmarks.mlvu import MLVU, MLVU_GENERATION, MLVU_TEST
from videoxl.evaluation.benchmarks.others import EGOSCHEMA, LONGTIMESCOPE, VIDEOEVAL_PRO, VIDEOEVAL_PRO_OPEN
from videoxl.evaluation.benchmarks.ovo import OVO_BENCH
from videoxl.evaluation.benchmarks.protocol import Benchmark
from videoxl.evaluation.benchmarks.videomme import VIDEOMME, VIDEOMME_V2

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        MLVU,
        MLVU_TEST,
        MLVU_GENERATION,
        VIDEOMME,
        VIDEOMME_V2,
        LONGVIDEOBENCH,
        LVBENCH,
        EGOSCHEMA,
        LONGTIMESCOPE,
        VIDEOEVAL_PRO,
        VIDEOEVAL_PRO_OPEN,
        OVO_BENCH,
    )
}
