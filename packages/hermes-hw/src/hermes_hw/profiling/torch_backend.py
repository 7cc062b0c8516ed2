"""Operators of PyTorch: in bf16 on an accelerator, in float32 on a processor.

On a CUDA device work is timed there: calls are captured into a graph, as engines capture their steps, and events before
and after its replay say how long it took (https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs" and
"Asynchronous execution"). Work that cannot be captured is launched call by call between the events.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from hermes_core.api.errors import InputError, MissingExtraError

from hermes_hw.profiling import machine
from hermes_hw.profiling.backend import Call, Timing
from hermes_hw.profiling.timing import host_seconds, host_times

_MS: Final = 1e-3
_WARM_UP: Final = 3
"""Runs before a capture: libraries make handles and choose kernels in the first."""
_REPLAY_S: Final = 2e-3
"""What a graph is to take at least, so that the resolution of events (half a microsecond) does not matter."""
_MOST_CALLS: Final = 256
_LEAST_S: Final = 1e-9
_FAMILIES: Final = {
    (8, 0): "ampere",
    (8, 6): "ampere",
    (8, 9): "ada",
    (9, 0): "hopper",
    (10, 0): "blackwell",
    (10, 3): "blackwell",
    (12, 0): "blackwell_rtx",
}
"""Kernel families by compute capability (NVIDIA, "CUDA GPU Compute Capability", 2025)."""


def calls_of(single_s: float, least: int) -> int:
    """Return how many calls are timed together, `least` and more, when one takes `single_s`."""
    return min(max(math.ceil(_REPLAY_S / max(single_s, _LEAST_S)), least, 1), _MOST_CALLS)


class TorchBackend:
    """PyTorch on one device. Implements `Backend`."""

    name = "torch"

    def __init__(self, device: str) -> None:
        if find_spec("torch") is None:
            raise MissingExtraError("profiling with PyTorch needs it: pip install 'hermes-hw[profile]'")
        import torch  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - an extra

        self._torch: Any = torch
        self.device = _checked(torch, device)
        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.set_device(self.device)
        self.dtype = "bf16" if device != "cpu" else "fp32"
        self._type = torch.bfloat16 if device != "cpu" else torch.float32
        self.cache_bytes = self._properties().L2_cache_size if self.cuda else machine.cache_bytes()

    def _properties(self) -> Any:
        return self._torch.cuda.get_device_properties(self.device)

    def peers(self, wanted: int | None) -> list[str]:
        """Return the devices that collectives are measured between; empty: none are.

        Without a wish all devices of an accelerator, its own first; on a processor, of which there is one, none. There
        a wish is for so many processes. Raises InputError when there are not so many devices.
        """
        if not self.cuda:
            return ["cpu"] * (wanted or 1) if (wanted or 1) > 1 else []
        there = [f"cuda:{number}" for number in range(self._torch.cuda.device_count())]
        there.sort(key=lambda device: device != self.device)
        if (wanted or 1) > len(there):
            raise InputError(
                f"--peers {wanted}: PyTorch sees {len(there)} devices on this machine",
                remedy=f"Give at most {len(there)}.",
            )
        found = there[:wanted]
        return found if len(found) > 1 else []

    def array(self, *shape: int) -> Any:
        """Return an array of small numbers."""
        return self.pool(math.prod(shape)).reshape(shape)

    def pool(self, elements: int) -> Any:
        """Return a flat array of small numbers."""
        values = self._torch.arange(min(elements, 13 * 4096), device=self.device, dtype=self._torch.int32) % 13
        pattern = values.to(self._type) / 13 - 0.5
        return pattern.repeat(-(-elements // len(pattern)))[:elements]

    def view(self, pool: Any, begin: int, shape: Sequence[int]) -> Any:
        """Return a part of a pool."""
        return pool[begin : begin + math.prod(shape)].reshape(tuple(shape))

    def matmul(self, a: Any, b: Any) -> Any:
        """Return the product of `a` and `b`."""
        return self._torch.matmul(a, b)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        """Return causal attention by the fastest kernel that PyTorch has for it."""
        tokens, keys = q.shape[2], k.shape[2]
        options: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]}
        if 1 < tokens < keys:
            from torch.nn.attention.bias import causal_lower_right  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415

            options["attn_mask"] = causal_lower_right(tokens, keys)
        else:
            options["is_causal"] = tokens > 1
        return self._torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)

    def softmax(self, a: Any) -> Any:
        """Return the softmax over the last dimension."""
        return self._torch.softmax(a, -1)

    def norm(self, a: Any) -> Any:
        """Return the root-mean-square norm over the last dimension."""
        return self._torch.nn.functional.rms_norm(a, (a.shape[-1],))

    def gate(self, a: Any, b: Any) -> Any:
        """Return silu(a) * b."""
        return self._torch.nn.functional.silu(a) * b

    def rotate(self, a: Any, cosines: Any, sines: Any) -> Any:
        """Return the rotary embedding of `a`."""
        half = a.shape[-1] // 2
        turned = self._torch.cat((-a[..., half:], a[..., :half]), dim=-1)
        return a * cosines + turned * sines

    def gather(self, table: Any, rows: int, turn: int) -> Any:
        """Return `rows` rows of a table, far apart and other ones every turn."""
        index = (self._torch.arange(rows, device=self.device) * 7919 + turn * 104_729) % table.shape[0]
        return table[index]

    def times(self, call: Call, turns: int, timing: Timing) -> list[float]:
        """Return the seconds of runs of `call`; on a CUDA device means over the calls of one replay."""
        if not self.cuda:
            with self._torch.inference_mode():
                return host_times(call, self.wait, timing)
        with self._torch.inference_mode():
            return self._device_times(call, turns, timing)

    def _device_times(self, call: Call, turns: int, timing: Timing) -> list[float]:
        cuda = self._torch.cuda
        # The documentation asks for runs on another stream before a capture.
        aside = cuda.Stream()
        aside.wait_stream(cuda.current_stream())
        with cuda.stream(aside):
            for turn in range(_WARM_UP):
                call(turn)
        cuda.current_stream().wait_stream(aside)
        single_s = self.seconds(lambda: call(0))
        calls = calls_of(single_s, turns if single_s < timing.long_s else 1)
        work = self.repeated(call, calls)
        work()  # the first replay loads the graph
        count = max(timing.runs(single_s * calls), timing.fewest_runs)
        return [max(self.seconds(work) / calls, _LEAST_S) for _ in range(count)]

    def repeated(self, call: Call, calls: int) -> Callable[[], object]:
        """Return what does `calls` calls: the replay of a graph where they can be captured on a device."""
        work = self._captured(call, calls) if self.cuda else None
        if work is not None:
            return work

        def one_by_one() -> None:
            for turn in range(calls):
                call(turn)

        return one_by_one

    def seconds(self, work: Callable[[], object]) -> float:
        """Return how long the device takes for `work`."""
        return max(self._between_events(work), _LEAST_S) if self.cuda else host_seconds(work, self.wait)

    def _captured(self, call: Call, calls: int) -> Callable[[], object] | None:
        """Return what replays `calls` calls from a graph; None when they cannot be captured."""
        graph = self._torch.cuda.CUDAGraph()
        try:
            # Other threads may go on meanwhile: NCCL's asks what has become of earlier work.
            with self._torch.cuda.graph(graph, capture_error_mode="thread_local"):
                for turn in range(calls):
                    call(turn)
        except RuntimeError as error:
            if self.memory_error(error):
                raise
            self.wait()
            return None
        replay: Callable[[], object] = graph.replay
        return replay

    def _between_events(self, work: Callable[[], object]) -> float:
        """Return the seconds that the device needs for `work`."""
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * _MS

    def wait(self) -> None:
        """Wait until the device has done what was begun."""
        if self.cuda:
            self._torch.cuda.synchronize()

    def memory_error(self, error: Exception) -> bool:
        """Return whether an exception says that memory ran out."""
        return isinstance(error, MemoryError | self._torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)

    def versions(self) -> dict[str, str]:
        """Return versions of libraries and drivers."""
        found = {"torch": str(self._torch.__version__)}
        if self.cuda:
            found["cuda"] = str(self._torch.version.cuda)
            if self._torch.distributed.is_available() and self._torch.distributed.is_nccl_available():
                found["nccl"] = ".".join(map(str, self._torch.cuda.nccl.version()))
            found["device"] = str(self._torch.cuda.get_device_name(self.device))
            driver = machine.driver_version()
            found |= {"driver": driver} if driver else {}
        return found

    def facts(self) -> dict[str, Any]:
        """Return what the device tells of itself."""
        if not self.cuda:
            return {
                "vendor": machine.processor_name(),
                "family": "cpu",
                "compute_units": machine.processors(),
                "memory_bytes": machine.memory_bytes(),
            }
        properties = self._properties()
        return {
            "vendor": "NVIDIA" if self._torch.version.hip is None else "AMD",
            "family": _FAMILIES.get((properties.major, properties.minor), "generic"),
            "compute_units": int(properties.multi_processor_count),
            "memory_bytes": int(properties.total_memory),
            "known": str(properties.name),
        }

    def threads(self) -> Mapping[str, str | int]:
        """Return what decides how many threads work."""
        return {**machine.thread_settings(), "torch_threads": int(self._torch.get_num_threads())}


def _checked(torch: Any, device: str) -> str:
    """Return `device` when this machine has it. Raises InputError else."""
    if device == "cpu":
        return device
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = device.removeprefix("cuda").removeprefix(":") or "0"
    if not device.startswith("cuda") or not number.isdigit() or int(number) >= there:
        known = ", ".join(["cpu", *(f"cuda:{i}" for i in range(there))])
        raise InputError(f"no device {device!r} on this machine", remedy=f"PyTorch sees: {known}.")
    return f"cuda:{int(number)}"
