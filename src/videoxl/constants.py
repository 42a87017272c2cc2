"""The address from which released scripts import the names of :mod:`videoxl.released.constants`."""

from videoxl.released.constants import *  # noqa: F403
