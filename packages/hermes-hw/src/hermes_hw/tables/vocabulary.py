"""The columns of a table of each kind of operator; units and meaning in docs/reference/operators.md."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class KindSpec:
    """Columns of one kind. `axes` are interpolated between; of `shape` the nearest measured is taken."""

    axes: tuple[str, ...]
    shape: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    """Axes that may be zero."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order in which rows are sorted."""
        return (*self.shape, *self.axes)


KINDS: Final = {
    "gemm": KindSpec(("n", "k", "m")),
    "attention.prefill": KindSpec(
        ("heads", "kv_heads", "batch", "tokens", "cached"), ("head_dim", "window"), ("cached",)
    ),
    "attention.decode": KindSpec(("heads", "kv_heads", "batch", "context"), ("head_dim", "window")),
    "attention.mixed": KindSpec(
        ("tokens", "cached", "batch", "context"), ("heads", "kv_heads", "head_dim", "window"), ("cached",)
    ),
    "attention.latent_prefill": KindSpec(("heads", "batch", "tokens", "cached"), ("latent",), ("cached",)),
    "attention.latent_decode": KindSpec(("heads", "batch", "context"), ("latent",)),
    "moe.experts": KindSpec(
        ("experts_tensor", "expert_parallel", "tokens"), ("hidden", "intermediate", "top_k", "experts")
    ),
    "moe.experts_wide": KindSpec(
        ("experts_tensor", "expert_parallel", "tokens"), ("hidden", "intermediate", "top_k", "experts")
    ),
    "latent.keys": KindSpec(("heads", "tokens")),
    "latent.values": KindSpec(("heads", "tokens")),
    "attention.index_decode": KindSpec(("batch", "context"), ("heads", "head_dim")),
    "attention.index_prefill": KindSpec(("batch", "tokens", "cached"), ("heads", "head_dim"), ("cached",)),
    "attention.linear_decode": KindSpec(("value_heads", "batch"), ("key_dim", "value_dim")),
    "attention.linear_prefill": KindSpec(("value_heads", "tokens"), ("key_dim", "value_dim")),
    "attention.kda_decode": KindSpec(("value_heads", "batch"), ("key_dim", "value_dim")),
    "attention.kda_prefill": KindSpec(("value_heads", "tokens"), ("key_dim", "value_dim")),
    "norm": KindSpec(("hidden", "tokens")),
    "rotary": KindSpec(("heads", "kv_heads", "tokens"), ("head_dim", "qk_norm")),
    "elementwise": KindSpec(("width", "tokens"), ("inputs",)),
    "embedding": KindSpec(("hidden", "tokens")),
    "sample": KindSpec(("vocab", "sequences")),
    "collective.all_reduce": KindSpec(("ranks", "bytes")),
    "collective.all_gather": KindSpec(("ranks", "bytes")),
    "collective.reduce_scatter": KindSpec(("ranks", "bytes")),
    "collective.all_to_all": KindSpec(("ranks", "bytes")),
    "collective.dispatch": KindSpec(("ranks", "bytes")),
    "collective.combine": KindSpec(("ranks", "bytes")),
    "transfer.p2p": KindSpec(("bytes",)),
}
"""What tables may hold."""
