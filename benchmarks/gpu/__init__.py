"""What this package takes on a GPU, part by part, each beside its fair baseline in the same run: ``script/gpu``.

Models have their true size and random weights, drawn on the device. Nothing is downloaded, and no video is decoded.
"""
