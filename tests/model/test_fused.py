"""Kernels of one token: their plain form against its definition, and Triton's form against the plain one."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from videoxl.model import fused, fused_kernels

CPU = torch.device("cpu")
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from videoxl.model import fused_kernels as kernels
constants = {"BLOCK": 128, "UNROTATE": True, "ROTATE": True}
kinds = {name: "constexpr" for name in constants}
kinds.update({name: "*i64" for name in ("counters", "index", "dense", "coarse")})
kinds.update({name: "*fp32" for name in ("tables", "inverse")})
kinds.update({name: "*bf16" for name in ("states", "queries", "keys", "values", "gate_up", "out")})
for kernel in (kernels.silu_mul_kernel, kernels.rotate_and_append_kernel, kernels.gather_layers_kernel):
    for capability in (80, 90):
        signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
        values = {name: value for name, value in constants.items() if name in signature}
        source = ASTSource(fn=kernel, signature=signature, constexprs=values)
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
"""


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's kernels, carried out on the CPU."""
    if fused_kernels.TRITON_MISSING:
        pytest.skip(fused_kernels.TRITON_MISSING)
    with monkeypatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.reload(fused_kernels)
        yield
    importlib.reload(fused_kernels)


@pytest.mark.parametrize(("heads", "groups", "width"), [(6, 2, 24), (4, 4, 32), (3, 1, 130)])
def test_triton_kernels_are_the_plain_form(interpreted: None, heads: int, groups: int, width: int) -> None:
    """Measured: 1e-7."""
    assert fused.largest_difference(CPU, heads, groups, width) < 1e-6


def test_a_wrong_kernel_and_one_that_fails_are_told_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise OSError("no compiler")

    for kernel, told in ((lambda x: x[..., : x.shape[-1] // 2], "wrong by"), (failing, "OSError: no compiler")):
        fused.why_plain.cache_clear()
        monkeypatch.setattr(fused_kernels, "TRITON_MISSING", "")
        monkeypatch.setattr(fused_kernels, "silu_mul", kernel)
        monkeypatch.setattr(fused_kernels, "rotate_and_append", fused.plain_rotate_and_append)
        monkeypatch.setattr(fused_kernels, "gather_layers", fused.plain_gather_layers)
        with pytest.warns(UserWarning, match=f"{told}.*takes longer"):
            assert fused.why_plain(CPU)
    fused.why_plain.cache_clear()
    monkeypatch.setattr(fused_kernels, "silu_mul", fused.plain_silu_mul)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fused.why_plain(CPU) == ""
    fused.why_plain.cache_clear()


def test_the_plain_form_is_its_definition() -> None:
    torch.manual_seed(0)
    states, tables = torch.randn(2, 8, 6), torch.randn(5, 2, 6)
    keys, values = torch.zeros(1, 2, 9, 6), torch.zeros(1, 2, 9, 6)
    queries = fused.rotate_and_append(states, tables, torch.tensor([3, 6]), keys, values)
    for token, (cos, sin) in enumerate(tables[3:]):
        want = torch.stack([s * cos + torch.cat((s[3:], s[:3])) * sin for s in states[token, :6]])
        assert torch.equal(queries[token], want[:4])
        assert torch.equal(keys[0, :, 6 + token], want[4:])
        assert torch.equal(values[0, :, 6 + token], states[token, 6:])
    assert int((keys != 0).sum()) == int((values != 0).sum()) == 24
    gate_up = torch.randn(3, 10)
    assert torch.equal(fused.silu_mul(gate_up), torch.nn.functional.silu(gate_up[:, :5]) * gate_up[:, 5:])


@pytest.mark.slow
def test_triton_compiles_the_kernels_without_a_gpu() -> None:
    if fused_kernels.TRITON_MISSING:
        pytest.skip(fused_kernels.TRITON_MISSING)
    subprocess.run([sys.executable, "-c", COMPILE], check=True)
