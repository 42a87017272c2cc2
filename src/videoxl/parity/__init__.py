"""Compare this implementation with recorded numbers of the released one (``videoxl parity DIR``)."""

from videoxl.parity.runner import CaseResult, run_parity

__all__ = ["CaseResult", "run_parity"]
