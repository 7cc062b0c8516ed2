"""The vendor's side: a base class, and `serve`, which together make a hardware service.

class MyChip(HardwareService):
    def describe(self):
        return Description(vendor="acme", model="chip", version="1.0", operators={"gemm": ["bf16"]})

    def price(self, operator, sizes, session):
        return 2.0 * sizes["m"] * operator.fixed["n"] * operator.fixed["k"] / 1e15

if __name__ == "__main__":
    serve(MyChip())
"""

from hermes_hw.client.questions import OperatorKey
from hermes_hw.server.base import ConfigError, Description, HardwareService, Prices, Steps
from hermes_hw.server.run import serve
from hermes_hw.server.servicer import HardwareServicer, registration, servicer_of

__all__ = [
    "ConfigError",
    "Description",
    "HardwareService",
    "HardwareServicer",
    "OperatorKey",
    "Prices",
    "Steps",
    "registration",
    "serve",
    "servicer_of",
]
