"""Number formats: how many bits a stored value takes, and in which format it is multiplied."""

from dataclasses import dataclass
from typing import Final

from hermes_core.api.errors import InputError


@dataclass(frozen=True, slots=True)
class DType:
    """A storage format. `bits` includes scales and zero points; `compute` is the format of the multiplication."""

    name: str
    bits: float
    compute: str

    @property
    def bytes(self) -> float:
        """Bytes that one value takes."""
        return self.bits / 8.0


_GROUP_SCALE_BITS: Final = (16 + 4) / 128
"""AWQ and GPTQ keep a 16-bit scale and a 4-bit zero point for each group of 128 weights
(Lin et al., "AWQ", MLSys 2024; Frantar et al., "GPTQ", ICLR 2023)."""

DTYPES: Final = {
    dtype.name: dtype
    for dtype in (
        DType("fp32", 32, "fp32"),
        DType("bf16", 16, "bf16"),
        DType("fp16", 16, "bf16"),
        DType("fp8", 8, "fp8"),
        DType("int8", 8, "int8"),
        DType("int4", 4 + _GROUP_SCALE_BITS, "bf16"),
        # OCP Microscaling Formats v1.0 (2023): one 8-bit scale for each 32 values.
        DType("mxfp4", 4.25, "fp4"),
        # NVIDIA Blackwell: one 8-bit scale for each 16 values.
        DType("nvfp4", 4.5, "fp4"),
    )
}

_ALIASES: Final = {
    "auto": "bf16",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "float8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "fp8_block": "fp8",
    "fp8_static": "fp8",
    "fp8_ootb": "fp8",
    "fp8_w8a8": "fp8",
    "fbgemm_fp8": "fp8",
    "modelopt": "fp8",
    "modelopt_fp8": "fp8",
    "float8_e4m3fn": "fp8",
    "w8a8": "int8",
    "w8a8_int8": "int8",
    "int8_w8a8": "int8",
    "w8a8_fp8": "fp8",
    "awq": "int4",
    "gptq": "int4",
    "w4a16": "int4",
    "w4afp8": "int4",
    "w4a8": "int4",
    "w4a8_awq": "int4",
    "sq": "int8",
    "int8_sq": "int8",
    "smoothquant": "int8",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "awq_marlin": "int4",
    "gptq_marlin": "int4",
    "int4_awq": "int4",
    "int4_wo": "int4",
    "int8_wo": "int8",
    "bitsandbytes": "int4",
    "fp4": "nvfp4",
    "modelopt_fp4": "nvfp4",
}


def dtype_named(name: str, field: str = "dtype") -> DType:
    """Return the format called `name` (aliases such as "bfloat16" or "awq" included).

    Raises InputError naming `field` when it is unknown.
    """
    key = name.strip().lower().removeprefix("torch.").replace("-", "_")
    try:
        return DTYPES[_ALIASES.get(key, key)]
    except KeyError:
        raise InputError(f"{field}: unknown number format {name!r}", remedy=f"Known: {', '.join(DTYPES)}.") from None
