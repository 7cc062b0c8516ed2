"""What a sequence holds of the KV memory, in blocks: layers of unlike reach beside one another.

A block is `block_size` tokens of the layers that keep all tokens. Layers with a sliding window keep the blocks of the
newest tokens only: as a sequence grows past the window, each new block frees an old one. Their KV is counted in the
same blocks, `window_ratio` for each block of tokens. Linear attention and state-space layers keep a state of one size.
"""

from dataclasses import dataclass
from typing import Final

from hermes_core.api.hardware import MemoryPlan

_GRAIN: Final = 1e-9
"""Lets a ratio that is whole but for rounding be whole."""


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Blocks of a sequence by the tokens it holds."""

    block_size: int
    window_ratio: int = 0
    """Blocks that the windowed layers take beside each block of tokens within reach."""
    window_blocks: int = 0
    """Blocks of tokens that the windowed layers keep."""
    state_blocks: int = 0
    """Blocks that hold the state of a sequence, whatever its length."""

    @property
    def plain(self) -> bool:
        """Whether all layers keep all tokens, and nothing else."""
        return not (self.window_ratio or self.state_blocks)

    @property
    def window_tokens(self) -> int:
        """Tokens from which on the windowed layers take no more blocks; 0 without such layers."""
        return self.window_blocks * self.block_size if self.window_ratio else 0

    def blocks(self, context: int) -> int:
        """Return the blocks of a sequence that holds the KV of `context` tokens, at least one."""
        blocks = -(-context // self.block_size)
        kept = blocks if blocks < self.window_blocks else self.window_blocks
        return blocks + self.window_ratio * kept + self.state_blocks

    def tokens_within(self, blocks: int) -> int:
        """Return the longest context that `blocks` hold."""
        blocks -= self.state_blocks
        each = 1 + self.window_ratio
        if blocks < each * self.window_blocks:
            return max(0, blocks // each * self.block_size)
        return max(0, (blocks - self.window_ratio * self.window_blocks) * self.block_size)


def kv_layout(memory: MemoryPlan, block_size: int) -> KvLayout:
    """Return how the layers of a model share the KV memory of one device.

    vLLM 0.33 (v1/core/kv_cache_utils.py, single_type_kv_cache_manager.py): groups of layers with pages of one size out
    of one pool; a group with a window of w frees what is out of reach, so it keeps ceil((w - 1) / block) + 1 blocks.
    A ratio that is not whole is rounded up, as vLLM pads groups. Models of which every layer has the window are counted
    as if it had none: their capacity is a lower bound.
    """
    full = sum(group.bytes_per_token for group in memory.kv_groups if not group.window)
    windows = [group for group in memory.kv_groups if group.window]
    each = full or memory.kv_bytes_per_token
    state = -int(-memory.state_bytes_per_seq // (each * block_size)) if memory.state_bytes_per_seq else 0
    if not (full and windows):
        return KvLayout(block_size, state_blocks=state)
    ratio = -int(-(sum(group.bytes_per_token for group in windows) / full - _GRAIN) // 1)
    reach = max(group.window for group in windows)
    return KvLayout(block_size, ratio, -(-(reach - 1) // block_size) + 1, state)


def block_bytes(memory: MemoryPlan, block_size: int) -> float:
    """Return the bytes of one block on one device: of the layers that keep all tokens, where others keep a window."""
    full = sum(group.bytes_per_token for group in memory.kv_groups if not group.window)
    return (full or memory.kv_bytes_per_token) * block_size
