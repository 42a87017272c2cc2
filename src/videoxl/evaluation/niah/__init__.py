"""Needle in a haystack: something shown for a moment in a long video, at a known depth, and a question about it.

docs/evaluation/niah.md says what is measured. The modules, in the order of the work: :mod:`settings` (what a run is),
:mod:`needles` (what is hidden and asked), :mod:`haystacks` (videos with needles), :mod:`scoring` (whether an answer is
right), :mod:`selectors` (what is read densely), :mod:`runner` (all cells), :mod:`summary` (numbers), :mod:`output` and
:mod:`heatmap` (files).

Logs and results keep the names they were first written with: they call a selector a ``way``.

    result = run_niah(videoxl.load("tiny"), NiahSettings(frames=(512, 2048), depths=(0, 0.5, 1)))
"""
