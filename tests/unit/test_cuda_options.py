"""Options of PyTorch for CUDA, in processes of their own, since they hold for a whole process."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

OPTIONS = (
    "[os.environ.get('PYTORCH_ALLOC_CONF'), os.environ.get('PYTORCH_CUDA_ALLOC_CONF'), "
    "torch.backends.cuda.cudnn_sdp_enabled(), torch.get_float32_matmul_precision()]"
)


def options_after(statement: str, **environment: str) -> list[str | bool | None]:
    """Return PyTorch's options for CUDA in a process that runs a statement; two GPUs are pretended."""
    without = {key: value for key, value in os.environ.items() if not key.endswith("ALLOC_CONF")}
    program = (
        "import os, torch; from kdmt.runtime import pick_device; "
        "torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 2; "
        f"{statement}; print({OPTIONS})"
    )
    return ast.literal_eval(
        subprocess.run(
            [sys.executable, "-c", program],
            env=without | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


def test_pytorch_is_configured_when_a_gpu_is_picked_and_only_then() -> None:
    assert options_after("pick_device('cpu')") == [None, None, True, "highest"]
    *allocator, cudnn, precision = options_after("pick_device('cuda:1')")
    assert sorted(allocator, key=str) == [None, "expandable_segments:True"]
    assert (cudnn, precision) == (False, "high")


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_allocator_of_the_user_is_kept(name: str) -> None:
    *allocator, cudnn, _ = options_after("pick_device('cuda')", **{name: "max_split_size_mb:64"})
    assert sorted(allocator, key=str) == [None, "max_split_size_mb:64"]
    assert cudnn is False


def test_options_changed_later_are_kept() -> None:
    changed = "pick_device('cuda'); torch.set_float32_matmul_precision('highest'); pick_device('cuda')"
    assert options_after(changed)[-1] == "highest"
