"""The simulated device itself: what it counts, what it refuses, and that its numbers are a CPU's."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from tests.simulated_gpu.attention import reference_attention
from tests.simulated_gpu.card import H200, RTX_4090, T4, AttentionCall, choose_backend
from tests.simulated_gpu.cuda import simulated

CUDA = torch.device("cuda")
ALL = {"cudnn", "flash", "efficient", "math"}


def call(**changes: object) -> AttentionCall:
    """A question's prefill at true size, with changes."""
    plain = {"heads": 28, "key_heads": 4, "new": 30, "total": 4000, "width": 128, "value_width": 128}
    kind = {"mask": "none", "causal": False, "grouped": True, "contiguous_heads": True, "dtype": torch.bfloat16}
    return AttentionCall(**{**plain, **kind, **changes})  # type: ignore[arg-type]


def test_bytes_launches_copies_and_waits_are_counted() -> None:
    with simulated() as device, device.counting() as counts:
        x = torch.zeros(1000, 256, dtype=torch.bfloat16).to(CUDA)
        assert (device.live[0], x.device.index, x.is_cuda) == (512_000, 0, True)
        y = x @ x.T
        assert device.live[0] == 512_000 + 2_000_384  # a block is 512 bytes
        assert counts.launches == {"mm": 1}
        assert sum(counts.flops.values()) == 2 * 1000 * 256 * 1000
        assert counts.waits == 1  # the upload was not asked to go on behind the host's back
        y.sum().item()
        assert [why for why, _ in counts.synchronisations] == ["blocking upload", "item"]
        peak = device.peak[0]
        del y
        gc.collect()
        assert device.live[0] < 600_000
        assert device.peak[0] == peak


def test_views_and_shapes_start_nothing() -> None:
    with simulated() as device:
        x = torch.empty(4, 6, device=CUDA)
        with device.counting() as counts:
            assert x.view(6, 4).transpose(0, 1)[1:].shape == (3, 6)
        assert counts.kernels == counts.waits == 0


def test_a_host_tensor_beside_a_device_tensor_is_an_error() -> None:
    with simulated(), pytest.raises(RuntimeError, match="device tensor and a host tensor"):
        torch.zeros(3, device=CUDA) + torch.zeros(3)


def test_two_devices_do_not_meet() -> None:
    with simulated(count=2) as devices:
        x, y = torch.zeros(512, device="cuda:0"), torch.zeros(512, device="cuda:1")
        assert devices.live == [2048, 2048]
        with pytest.raises(RuntimeError, match="cuda:0"):
            x + y
        assert (x + y.to("cuda:0")).device == x.device


def test_integers_have_values_and_floats_have_none() -> None:
    with simulated():
        ids = torch.arange(5, device=CUDA)
        assert ids[ids > 2].tolist() == [3, 4]
        assert torch.randn(3, device=CUDA).argmax().item() == 0


def test_real_numbers_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5)
    with simulated(real=True):
        assert torch.equal((x.to(CUDA) @ x.T.to(CUDA)).softmax(-1).cpu(), (x @ x.T).softmax(-1))


def test_memory_ends_where_it_was_told_to() -> None:
    with simulated() as device:
        device.limit = 10_000
        with pytest.raises(torch.OutOfMemoryError, match="simulated"):
            torch.zeros(4000, device=CUDA)
        assert device.live[0] == 0


@pytest.mark.parametrize(
    ("card", "changes", "backend"),
    [
        (H200, {}, "cudnn"),
        (H200, {"mask": "lower right"}, "flash"),
        (H200, {"mask": "tensor"}, "cudnn"),
        (H200, {"dtype": torch.float32, "grouped": True}, "math"),
        (H200, {"dtype": torch.float32, "key_heads": 28}, "efficient"),
        (RTX_4090, {}, "flash"),
        (RTX_4090, {"mask": "tensor", "key_heads": 28}, "efficient"),
        (RTX_4090, {"mask": "tensor"}, "math"),
        (T4, {"dtype": torch.float16, "key_heads": 28}, "efficient"),
        (H200, {"causal": True}, "math"),  # torch aligns a causal mask at the begin; no fast kernel does
    ],
)
def test_backend_by_card(card: object, changes: dict[str, object], backend: str) -> None:
    assert choose_backend(card, call(**changes), ALL) == backend  # type: ignore[arg-type]


def test_backends_that_are_switched_off_are_not_taken() -> None:
    q = torch.zeros(1, 4, 8, 64, dtype=torch.bfloat16)
    with simulated() as device, device.counting() as counts:
        on_device = q.to(CUDA)
        F.scaled_dot_product_attention(on_device, on_device, on_device)
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            F.scaled_dot_product_attention(on_device, on_device, on_device)
        F.scaled_dot_product_attention(on_device, on_device, on_device, attn_mask=causal_lower_right(8, 8))
    assert counts.attention_kinds() == {"cudnn", "efficient", "flash lower right"}


def test_varlen_attention_is_the_plain_one() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(5, 4, 16), torch.randn(9, 2, 16), torch.randn(9, 2, 16)
    want, sums = reference_attention(q, k, v, causal=True, scale=None)
    grouped = F.scaled_dot_product_attention(
        *(t.transpose(0, 1)[None] for t in (q, k, v)),
        attn_mask=torch.ones(5, 9, dtype=torch.bool).tril_(4),
        enable_gqa=True,
    )
    assert torch.allclose(grouped[0].transpose(0, 1), want, atol=1e-6)
    with simulated(real=True):
        begins = [torch.tensor([0, n], dtype=torch.int32).to(CUDA) for n in (5, 9)]
        got, got_sums = varlen_attn(
            *(t.to(CUDA) for t in (q, k, v)),
            *begins,
            5,
            9,
            window_size=(-1, 0),
            enable_gqa=True,
            return_aux=AuxRequest(lse=True),
        )
        assert torch.equal(got.cpu(), want)
        assert torch.equal(got_sums.cpu(), sums)


def test_a_graph_is_one_launch_and_reads_what_is_there_when_it_runs() -> None:
    with simulated(real=True) as device:
        x, y = torch.ones(4, device=CUDA), torch.zeros(4, device=CUDA)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = x * 2 + 1
            y[1:].add_(made[1:])
        assert y.tolist() == [0, 0, 0, 0]  # nothing is carried out at the recording
        x.fill_(5)
        with device.counting() as counts:
            graph.replay()
            graph.replay()
        assert made.tolist() == [11, 11, 11, 11]
        assert y.tolist() == [0, 22, 22, 22]
        assert counts.launches == {"graph": 2}
        assert counts.moved["device"] > 0


def test_a_graph_cannot_be_recorded_over_a_wait() -> None:
    with simulated(real=True):
        x, graph = torch.ones(4, device=CUDA), torch.cuda.CUDAGraph()
        with pytest.raises(RuntimeError, match="stream is capturing: item"), torch.cuda.graph(graph):
            x.sum().item()


def test_what_goes_from_device_to_device_is_counted() -> None:
    with simulated(count=2) as devices, devices.counting() as counts:
        torch.zeros(512, device="cuda:1").to("cuda:0")
    assert counts.moved["between devices"] == 2048
    assert counts.waits == 0
