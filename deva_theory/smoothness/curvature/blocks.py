"""Blocks of a model's parameters: tensors, layers, attention heads, regular expressions, the whole model."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.estimators.balls import Ball, Box, ProductBall, SpectralBall

KINDS = ("tensor", "layer", "head", "model")


@dataclass(frozen=True)
class Piece:
    """A parameter, or a rectangular slice of one.

    Attributes
    ----------
    parameter : str
        Name in ``model.named_parameters()``.
    shape : tuple of int
        Shape of the slice.
    index : tuple of slice, optional
        Where it lies; () for the whole parameter.
    """

    parameter: str
    shape: tuple[int, ...]
    index: tuple[slice, ...] = ()

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def ball(self) -> Ball:
        """The spectral ball of a matrix (trailing dimensions flattened: out × in·k·k for a convolution), the box of a vector."""
        if len(self.shape) < 2 or min(self.shape[0], self.size // max(self.shape[0], 1)) < 2:
            # On one row or column the operator norm is the Euclidean one, but a vector stands for a diagonal matrix (SPEC M7).
            return Box(self.size)
        return SpectralBall(self.shape[0], self.size // self.shape[0])


@dataclass(frozen=True)
class Block:
    """Pieces that are probed together; vectors of a block are its pieces flattened and joined.

    Attributes
    ----------
    name : str
    pieces : tuple of Piece
    depth : int
        Position in the model, for figures.
    """

    name: str
    pieces: tuple[Piece, ...]
    depth: int = 0

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(piece.size for piece in self.pieces)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the block touches, each once."""
        return tuple(dict.fromkeys(piece.parameter for piece in self.pieces))

    def ball(self, norm: str) -> Ball:
        """Return the unit ball of "linf" or "spectral" on this block; outer maximum over the pieces."""
        if norm == "linf":
            return Box(self.size)
        balls = [piece.ball for piece in self.pieces]
        return balls[0] if len(balls) == 1 else ProductBall(balls)

    def gather(self, tensors: Mapping[str, Tensor | None], *, batched: bool = False, like: Tensor | None = None) -> Tensor:
        """Return the block's entries of parameter-shaped tensors, flat: (d,), or (k, d) with leading dimension k.

        None stands for zeros; `like` gives their leading size, dtype and device.
        """
        parts = []
        for piece in self.pieces:
            tensor = tensors[piece.parameter]
            if tensor is None:
                assert like is not None
                parts.append(like.new_zeros(*like.shape[:-1], piece.size))
                continue
            lead = (slice(None),) if batched else ()
            part = tensor[lead + piece.index] if piece.index else tensor
            parts.append(part.reshape(len(tensor), -1) if batched else part.reshape(-1))
        return torch.cat(parts, dim=-1)

    def scatter(self, V: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return rows (k, d) as parameter-shaped tensors (k, *shape), zero outside the block."""
        result: dict[str, Tensor] = {}
        for piece, part in zip(self.pieces, V.split([piece.size for piece in self.pieces], dim=-1), strict=True):
            part = part.reshape(len(V), *piece.shape)
            if piece.index:
                whole = result.setdefault(piece.parameter, V.new_zeros(len(V), *shapes[piece.parameter]))
                whole[(slice(None), *piece.index)] = part
            else:
                result[piece.parameter] = part
        return result


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are probed: floating point, ``requires_grad``, tied ones once.

    Raises
    ------
    ProbeError
        None of them, naming why.
    """
    named = dict(model.named_parameters())
    found = {name: p for name, p in named.items() if p.requires_grad and p.dtype.is_floating_point and p.numel()}
    if not found:
        integer = [name for name, p in named.items() if not p.dtype.is_floating_point]
        reason = f"{len(integer)} are integers (quantised), such as {integer[0]!r}" if integer else "all are frozen (requires_grad=False)"
        raise ProbeError(
            "the model has no parameters" if not named
            else f"none of the model's {len(named)} parameters can be probed: {reason}; unfreeze or dequantise those to probe"
        )
    return found


def make_blocks(
    model: nn.Module, blocks: str | Mapping[str, str] | Sequence[Block] = "tensor", *, select: str | None = None
) -> list[Block]:
    r"""Divide the trainable parameters into blocks.

    Parameters
    ----------
    blocks : str, mapping or sequence of Block
        * ``"tensor"``: each parameter; ``"layer"``: the parameters of one module (weight and bias together);
        * ``"head"``: query, key and value rows of each attention head, fused projections split; ``"model"``: everything;
        * any other string: a regular expression, searched in parameter names.  Each match is a block; if the
          expression has a group, matches that agree in it form one block (``r"(h\.\d+)\."``: transformer layers);
        * ``{name: expression}``: each entry joins its matches to one block.
    select : str, optional
        Regular expression: keep only blocks with a parameter (or a name) that matches.

    Raises
    ------
    ProbeError
        Nothing matches (near names are listed), an invalid expression, overlapping or integer parameters.
    """
    if not isinstance(blocks, str) and not isinstance(blocks, Mapping):
        made = list(blocks)
        if not made or not all(isinstance(block, Block) for block in made):
            raise ProbeError("blocks is a sequence; it must hold at least one Block and nothing else")
        return made
    parameters = trainable(model)
    if isinstance(blocks, Mapping):
        if not blocks:
            raise ProbeError("blocks is an empty mapping; give {name: expression}")
        groups = {name: _matching(model, parameters, expression) for name, expression in blocks.items()}
        owner: dict[str, str] = {}
        for name, members in groups.items():
            for member in members:
                if owner.setdefault(member, name) != name:
                    raise ProbeError(f"blocks {owner[member]!r} and {name!r} both match {member!r}; narrow one expression")
        made = [_whole(name, members, parameters) for name, members in groups.items()]
    elif blocks == "model":
        made = [_whole("model", list(parameters), parameters)]
    elif blocks == "tensor":
        made = [_whole(name, [name], parameters) for name in parameters]
    elif blocks == "layer":
        made = [_whole(name or "(root)", members, parameters) for name, members in _by_module(parameters).items()]
    elif blocks == "head":
        made = _heads(model, parameters)
    else:
        pattern = _compiled(blocks)
        groups = {}
        for name in _matching(model, parameters, blocks):
            found = pattern.search(name)
            assert found is not None
            groups.setdefault((found.group(1) or name) if pattern.groups else name, []).append(name)
        made = [_whole(name, members, parameters) for name, members in groups.items()]
    if select is not None:
        pattern = _compiled(select)
        kept = [b for b in made if pattern.search(b.name) or any(pattern.search(p) for p in b.parameters)]
        if not kept:
            raise ProbeError(_no_match(select, [b.name for b in made]))
        made = kept
    return [Block(block.name, block.pieces, depth) for depth, block in enumerate(made)]


def _whole(name: str, members: Sequence[str], parameters: Mapping[str, nn.Parameter]) -> Block:
    return Block(name, tuple(Piece(member, tuple(parameters[member].shape)) for member in members))


def _by_module(parameters: Mapping[str, nn.Parameter]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in parameters:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return groups


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise ProbeError(f"{expression!r} is no valid regular expression: {error}") from None


def _matching(model: nn.Module, parameters: Mapping[str, nn.Parameter], expression: str) -> list[str]:
    pattern = _compiled(expression)
    matches = [name for name in parameters if pattern.search(name)]
    if not matches:
        others = [name for name, _ in model.named_parameters() if pattern.search(name)]
        if others:
            raise ProbeError(
                f"{expression!r} matches only parameters that are frozen or integer, such as {others[0]!r}; unfreeze or dequantise them"
            )
        raise ProbeError(_no_match(expression, list(parameters)))
    return matches


def _no_match(expression: str, names: Sequence[str]) -> str:
    plain = re.sub(r"[\\^$*+?()\[\]|]", "", expression)
    near = difflib.get_close_matches(plain, names, n=3, cutoff=0.0)
    return f"{expression!r} matches none of {len(names)} names; near ones: {', '.join(near)}"


def _heads(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[Block]:
    made: list[Block] = []
    for prefix, module in model.named_modules():
        for head, pieces in enumerate(_head_pieces(prefix + "." if prefix else "", module, parameters)):
            if pieces:
                made.append(Block(f"{prefix or 'attention'}[head {head}]", tuple(pieces)))
    if not made:
        raise ProbeError(
            "no attention heads found: they are recognised in nn.MultiheadAttention, in fused projections named qkv, c_attn, in_proj or "
            "query_key_value and in q_proj/k_proj/v_proj or query/key/value beside num_heads; use blocks='tensor' or Block objects"
        )
    return made


_FUSED = ("qkv", "c_attn", "in_proj", "Wqkv", "qkv_proj")
_SEPARATE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"))


def _head_pieces(prefix: str, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[list[Piece]]:
    count = _count(module, "num_heads", "num_attention_heads", "n_head")
    if not count:
        return []
    names: list[tuple[str, int]] = []  # projections' parameters and how many of q, k, v each holds
    fused = [(f"{prefix}{f}{suffix}", 3) for f in _FUSED for suffix in (".weight", ".bias")]
    fused += [(f"{prefix}in_proj_weight", 3), (f"{prefix}in_proj_bias", 3)]
    names += [(name, parts) for name, parts in fused if name in parameters]
    if not names:
        for triple in _SEPARATE:
            names = [(f"{prefix}{part}{s}", 1) for part in triple for s in (".weight", ".bias") if f"{prefix}{part}{s}" in parameters]
            if names:
                break
    heads: list[list[Piece]] = [[] for _ in range(count)]
    for name, parts in names:
        shape = tuple(parameters[name].shape)
        owner: nn.Module = module
        for step in name[len(prefix):].split(".")[:-1]:
            owner = getattr(owner, step)
        # transformers' Conv1D stores (in, out): heads are columns there.
        axis = 1 if len(shape) == 2 and type(owner).__name__ == "Conv1D" else 0
        span = shape[axis] // parts
        local = count
        if shape[axis] % parts == 0 and span % count:
            continue
        if parts == 1:
            # Grouped queries: keys and values have fewer heads; those belong to no single query head.
            grouped = _count(module, "num_key_value_heads")
            if grouped and grouped != count and not name[len(prefix):].startswith("q"):
                continue
        width = span // local
        for head in range(count):
            for part in range(parts):
                start = part * span + head * width
                index = (slice(None),) * axis + (slice(start, start + width),)
                cut = tuple(width if k == axis else s for k, s in enumerate(shape))
                heads[head].append(Piece(name, cut, index))
    return heads


def _count(module: nn.Module, *names: str) -> int:
    config = getattr(module, "config", None)
    for holder in (module, config):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return 0
