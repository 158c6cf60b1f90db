"""The pre-norm transformer block of the GPT and the vision transformer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention with a fused projection.

    The second derivative needs PyTorch's "math" kernel (``torch.nn.attention.sdpa_kernel``): the fused ones have none.

    Attributes
    ----------
    qkv : nn.Linear
        Width E to 3E. Rows are ordered q, k, v; within each, head h owns rows ``h·E/num_heads`` to ``(h+1)·E/num_heads``.
    proj : nn.Linear
        Width E to E; its columns are ordered by head likewise.
    num_heads : int
        Divides E.
    causal : bool
        Whether a position sees only itself and those before it.
    """

    def __init__(self, width: int, num_heads: int, *, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time, E)`` to the same shape."""
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """``x + attention(ln1(x))``, then ``x + down(gelu(up(ln2(x))))``: twelve parameter tensors.

    Attributes
    ----------
    ln1, ln2 : nn.LayerNorm
        With weight and bias.
    attention : SelfAttention
    up, down : nn.Linear
        Width E to ``expansion``·E and back.
    """

    def __init__(self, width: int, num_heads: int, *, expansion: int, causal: bool) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads, causal=causal)
        self.ln2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, time, E)`` to the same shape."""
        x = x + self.attention(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x))))
