"""What runs the operators that are measured: NumPy with its BLAS, or PyTorch."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from hermes_core.api.errors import InputError, MissingExtraError

_MOST_RUNS = 200
_LEAST_S = 1e-9
_LONG_S = 0.25
_FEWEST_RUNS = 2
"""Of work that takes long: what disturbs it is short beside it."""


class Backend(Protocol):
    """Makes arrays, works on them, and waits until the work is done."""

    name: str
    dtype: str
    """Number format of the tables."""

    def array(self, *shape: int) -> Any:
        """Return an array of small numbers."""
        ...

    def matmul(self, a: Any, b: Any) -> Any:
        """Return the (batched) product of `a` and `b`."""
        ...

    def transposed(self, a: Any) -> Any:
        """Return `a` with its last two dimensions exchanged."""
        ...

    def softmax(self, a: Any) -> Any:
        """Return the softmax over the last dimension."""
        ...

    def norm(self, a: Any) -> Any:
        """Return the root-mean-square norm over the last dimension."""
        ...

    def gate(self, a: Any, b: Any) -> Any:
        """Return silu(a) * b."""
        ...

    def gather(self, table: Any, rows: int) -> Any:
        """Return `rows` rows of a table, far apart."""
        ...

    def wait(self) -> None:
        """Return when all work is done."""
        ...

    def versions(self) -> dict[str, str]:
        """Return versions of libraries and drivers."""
        ...


class NumpyBackend:
    """NumPy and the BLAS that it was built with, in float32. Implements `Backend`."""

    name = "numpy"
    dtype = "fp32"

    def array(self, *shape: int) -> Any:
        """Return an array of small numbers."""
        size = int(np.prod(shape))
        return ((np.arange(size, dtype=np.float32) % 13.0) / 13.0 - 0.5).reshape(shape)

    def matmul(self, a: Any, b: Any) -> Any:
        """Return the (batched) product of `a` and `b`."""
        return a @ b

    def transposed(self, a: Any) -> Any:
        """Return `a` with its last two dimensions exchanged."""
        return np.swapaxes(a, -1, -2)

    def softmax(self, a: Any) -> Any:
        """Return the softmax over the last dimension."""
        e = np.exp(a - a.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def norm(self, a: Any) -> Any:
        """Return the root-mean-square norm over the last dimension."""
        return a / np.sqrt((a * a).mean(axis=-1, keepdims=True) + 1e-6)

    def gate(self, a: Any, b: Any) -> Any:
        """Return silu(a) * b."""
        return a / (1.0 + np.exp(-a)) * b

    def gather(self, table: Any, rows: int) -> Any:
        """Return `rows` rows of a table, far apart."""
        return table[(np.arange(rows) * 7919) % len(table)]

    def wait(self) -> None:
        """Return when all work is done: NumPy works at once."""

    def versions(self) -> dict[str, str]:
        """Return versions of libraries and drivers."""
        config: Any = np.show_config(mode="dicts")
        blas = config.get("Build Dependencies", {}).get("blas", {})
        return {"numpy": np.__version__, "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()}


class TorchBackend:
    """PyTorch in bf16 on an accelerator, in float32 on a processor. Implements `Backend`."""

    name = "torch"

    def __init__(self, device: str) -> None:
        if find_spec("torch") is None:
            raise MissingExtraError("profiling with PyTorch needs it: pip install 'hermes-hw[profile]'")
        import torch  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - an extra

        self._torch: Any = torch
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"no device {device!r} on this machine", remedy="Use --backend numpy, or --device cpu.")
        self.device = device
        self.dtype = "bf16" if device != "cpu" else "fp32"
        self._type = torch.bfloat16 if device != "cpu" else torch.float32

    def array(self, *shape: int) -> Any:
        """Return an array of small numbers."""
        size = int(np.prod(shape))
        values = self._torch.arange(size, device=self.device, dtype=self._torch.int32) % 13
        return (values.to(self._type) / 13 - 0.5).reshape(shape)

    def matmul(self, a: Any, b: Any) -> Any:
        """Return the (batched) product of `a` and `b`."""
        return self._torch.matmul(a, b)

    def transposed(self, a: Any) -> Any:
        """Return `a` with its last two dimensions exchanged."""
        return a.transpose(-1, -2)

    def softmax(self, a: Any) -> Any:
        """Return the softmax over the last dimension."""
        return self._torch.softmax(a, -1)

    def norm(self, a: Any) -> Any:
        """Return the root-mean-square norm over the last dimension."""
        return self._torch.nn.functional.rms_norm(a, (a.shape[-1],))

    def gate(self, a: Any, b: Any) -> Any:
        """Return silu(a) * b."""
        return self._torch.nn.functional.silu(a) * b

    def gather(self, table: Any, rows: int) -> Any:
        """Return `rows` rows of a table, far apart."""
        index = (self._torch.arange(rows, device=self.device) * 7919) % table.shape[0]
        return table[index]

    def wait(self) -> None:
        """Return when all work is done."""
        if self.device.startswith("cuda"):
            self._torch.cuda.synchronize()

    def versions(self) -> dict[str, str]:
        """Return versions of libraries and drivers."""
        found = {"torch": str(self._torch.__version__)}
        if self.device.startswith("cuda"):
            found["cuda"] = str(self._torch.version.cuda)
            found["device"] = str(self._torch.cuda.get_device_name())
        return found


def run_seconds(backend: Backend, work: Callable[[], Any], *, least: int = 7, budget_s: float = 0.03) -> float:
    """Return the time of `work`: the least of `least` runs, or of as many more as fit `budget_s`, the first dropped.

    Other work on the machine only ever adds time. Of work that takes long two runs are enough.
    """
    work()
    backend.wait()
    times: list[float] = []
    while len(times) < least or (sum(times) < budget_s and len(times) < _MOST_RUNS):
        if len(times) >= _FEWEST_RUNS and sum(times) > _LONG_S:
            break
        start = time.perf_counter()
        work()
        backend.wait()
        times.append(time.perf_counter() - start)
    return max(min(times), _LEAST_S)


def package_version(name: str) -> str:
    """Return the installed version of a distribution, "unknown" when there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
