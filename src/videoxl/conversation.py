"""The address from which released scripts import the names of :mod:`videoxl.released.conversation`."""

from videoxl.released.conversation import *  # noqa: F403
