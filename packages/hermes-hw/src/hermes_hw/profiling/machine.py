"""What is known of the machine that is measured, and what else it does."""

import os
import platform
import re
from pathlib import Path
from typing import Final

_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_BUSY: Final = 0.25
"""Share of the processors that other work may keep busy before it is said."""
_CACHE: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_CACHE_BYTES: Final = 64 << 20
"""Where a machine does not say: more than most have."""
_MEMORY_BYTES: Final = 16 << 30
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def processors() -> int:
    """Return on how many processors this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Return what the processor calls itself."""
    text = _read(Path("/proc/cpuinfo"))
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or less where its control group has a limit."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        total = _MEMORY_BYTES
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    return min(total, int(limit)) if limit.isdigit() and int(limit) else total


def cache_bytes() -> int:
    """Return the size of the last level of the processor's caches."""
    sizes = [
        int(found[1]) * _UNITS[found[2]]
        for found in (re.fullmatch(r"(\d+)([KMG])", _read(path).strip()) for path in _CACHE.glob("index*/size"))
        if found
    ]
    return max(sizes, default=_CACHE_BYTES)


def driver_version() -> str:
    """Return the version of NVIDIA's driver, empty where the machine does not say."""
    found = re.search(r"Kernel Module\D*?(\d+(?:\.\d+)+)", _read(Path("/proc/driver/nvidia/version")))
    return found[1] if found else ""


def thread_settings() -> dict[str, str | int]:
    """Return what decides how many threads a BLAS takes: the processors, and the variables that are set."""
    return {"processors": processors(), **{name: os.environ[name] for name in _THREADS if name in os.environ}}


def load() -> float | None:
    """Return how many processes ran in the last minute, on average; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def load_warning(busy: float | None) -> str:
    """Return what to say of a machine on which other work ran before the profile; empty when it was idle."""
    if busy is None or busy < _BUSY * processors():
        return ""
    return (
        f"other work kept {busy:.1f} of {processors()} processors busy in the last minute: "
        "figures will be unsteady and too slow. An idle machine is better; where there is none, OMP_NUM_THREADS=1 "
        "keeps threads from waiting for one another, and measures a slower machine"
    )


def describe() -> dict[str, str | int]:
    """Return what is written down of the machine."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": processor_name(),
        "processors": processors(),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
