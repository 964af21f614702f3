"""Errors that mean that memory ran out, and errors that only look like it."""

from __future__ import annotations

import errno

import pytest
import torch

from panformer_cli.engine.distributed.out_of_memory import is_out_of_memory
from panformer_cli.engine.distributed.runtime import explained_out_of_memory
from panformer_cli.errors import PanformerError


def chained(error: Exception, cause: Exception, explicit: bool = True) -> Exception:
    """Return `error` as it is raised from `cause`, or while `cause` is handled."""
    try:
        try:
            raise cause
        except Exception as first:
            if explicit:
                raise error from first
            raise error  # noqa: B904
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (chained(RuntimeError("backend='inductor' raised"), torch.OutOfMemoryError("out of memory")), True),
        (chained(KeyError("x"), MemoryError(), explicit=False), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (RuntimeError("Unsupported memory format option Preserve"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("the shelf is out of memory sticks"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
    ids=lambda value: None if isinstance(value, bool) else str(value)[:40],
)
def test_classes_messages_and_causes(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_suppressed_context_does_not_count() -> None:
    error = chained(ValueError("x"), MemoryError(), explicit=False)
    error.__suppress_context__ = True
    assert not is_out_of_memory(error)


def test_an_error_without_memory_passes_unchanged_and_one_with_it_is_explained() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"), explained_out_of_memory():
        raise RuntimeError("shape mismatch")
    with (
        pytest.raises(PanformerError, match="ran out of memory; .* --fit-memory"),
        explained_out_of_memory(),
    ):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
