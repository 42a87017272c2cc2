"""The address from which released scripts import the names of :mod:`videoxl.released.demo_utils`."""

from videoxl.released.demo_utils import *  # noqa: F403
