"""The energy that an operator draws above what an idle device does."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from hermes_hw.devices import Device
from hermes_hw.operators import Figures

NETWORK_J_PER_BYTE: Final = 80e-12
"""10 pJ a bit, both ends of a serial link with its switch (order of magnitude of published SerDes)."""
ACTIVE_POWER_SHARE: Final = 0.31
"""Power drawn above idle while a step runs, whatever it does, as a share of what the board can draw above idle."""
MEMORY_POWER_SHARE: Final = 0.56
"""What streaming memory at full bandwidth adds to it. Both from the average power of static batches published with
Splitwise (Patel et al., ISCA 2024; Llama-2-70B on A100): 0.71 to 0.76 of the limit at 63% of the bandwidth, 0.59 to
0.61 at 38%. Prompts drew all of the limit, hence `Energy.joules` lets attainable FLOP/s alone reach it."""


def active_power_w(device: Device) -> float:
    """Return what a device draws above idle while a step runs, whatever it does in it."""
    return ACTIVE_POWER_SHARE * (device.tdp_w - device.idle_w)


@dataclass(frozen=True, slots=True)
class Energy:
    """Dynamic energy of one device: `dynamic_w` is what the board can draw above idle."""

    dynamic_w: float
    bytes_per_s: float

    @classmethod
    def of(cls, device: Device) -> "Energy":
        """Return the coefficients of `device`."""
        return cls(device.tdp_w - device.idle_w, device.memory_bandwidth_bytes_per_s)

    def joules(self, seconds: Figures, compute_s: Figures, nbytes: Figures) -> Figures:
        """Return the energy of an operator above idle, at most the board's limit for its time.

        A share for being active, one for bytes at full bandwidth, and the rest for the time `compute_s` that its
        FLOPs take at the attainable peak.
        """
        work = (1 - ACTIVE_POWER_SHARE) * compute_s + MEMORY_POWER_SHARE * (nbytes / self.bytes_per_s)
        return np.asarray(self.dynamic_w * np.minimum(ACTIVE_POWER_SHARE * seconds + work, seconds))

    def network_joules(self, seconds: Figures, nbytes: Figures) -> Figures:
        """Return the energy above idle of moving `nbytes` to other devices."""
        active = self.dynamic_w * ACTIVE_POWER_SHARE * seconds
        return np.asarray(np.minimum(active + NETWORK_J_PER_BYTE * nbytes, self.dynamic_w * seconds))
