"""The calling styles of the released packages, as thin adapters over the engine."""

# Before any module here: it makes videoxl.hf.register import them, which must not find them half-way.
import transformers.models.auto.modeling_auto  # noqa: F401
