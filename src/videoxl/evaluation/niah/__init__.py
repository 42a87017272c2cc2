"""Needle in a haystack: something shown for a moment in a long video, at a known depth, and a question about it.

docs/evaluation/niah.md tells what is measured. The parts, in the order of the work: :mod:`settings` what a run is,
:mod:`needles` what is hidden, :mod:`haystacks` where, :mod:`judging` answers, :mod:`runner` all cells, :mod:`ways` of
reading compared, :mod:`summary`, :mod:`output` and :mod:`heatmap` what comes out.

    result = run_niah(videoxl.load("tiny"), NiahSettings(frames=(512, 2048), depths=(0, 0.5, 1)))
"""
