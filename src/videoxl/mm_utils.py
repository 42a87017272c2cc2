"""The address from which released scripts import the functions of :mod:`videoxl.released.mm_utils`."""

from videoxl.released.mm_utils import *  # noqa: F403
