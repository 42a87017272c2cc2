"""The address from which released scripts import the names of :mod:`videoxl.released.utils`."""

from videoxl.released.utils import *  # noqa: F403
