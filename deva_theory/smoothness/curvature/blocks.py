"""Blocks of a model's parameters: tensors, layers, attention heads, regular expressions, the whole model."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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
        None of them, naming why; parameters that are not initialised yet, or that autograd cannot differentiate by.
    """
    named = dict(model.named_parameters())
    for name, tensor in (*named.items(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ProbeError(f"{name!r} is not initialised yet (a lazy module): run the model once on a batch first")
        if tensor.is_inference() and name in named:
            raise ProbeError(f"the parameter {name!r} was made in torch.inference_mode, which bars gradients: make the model outside it")
    found = {name: p for name, p in named.items() if p.requires_grad and p.dtype.is_floating_point and p.numel()}
    if not found:
        integer = [name for name, p in named.items() if not p.dtype.is_floating_point]
        reason = f"{len(integer)} are integers (quantised), such as {integer[0]!r}" if integer else "all are frozen (requires_grad=False)"
        raise ProbeError(
            "the model has no parameters" if not named
            else f"none of the model's {len(named)} parameters can be probed: {reason}; unfreeze or dequantise those to probe"
        )
    return found


def check_blocks(blocks: Sequence[Block], parameters: Mapping[str, nn.Parameter]) -> None:
    """Check blocks, whoever made them, against the parameters that can be probed.

    Raises
    ------
    ProbeError
        A name used twice, another parameter, a piece that does not fit its parameter, an entry listed twice in one block.
    """
    names: set[str] = set()
    for block in blocks:
        if block.name in names:
            raise ProbeError("two blocks have the same name; give each its own")
        names.add(block.name)
        if not block.pieces:
            raise ProbeError(f"block {block.name!r} has no pieces")
        places: dict[str, list[tuple[range, ...]]] = {}
        for piece in block.pieces:
            p = parameters.get(piece.parameter)
            if p is None:
                raise ProbeError(f"block parameter {piece.parameter!r} is not a trainable floating-point parameter of the model")
            title = f"the piece of {piece.parameter!r} in block {block.name!r}"
            if len(piece.index) > p.ndim or not all(isinstance(where, slice) for where in piece.index):
                raise ProbeError(f"{title} has index {piece.index}; give at most {p.ndim} slices")
            index = piece.index + (slice(None),) * (p.ndim - len(piece.index))
            ranges = tuple(range(*where.indices(size)) for where, size in zip(index, p.shape, strict=True))
            if tuple(map(len, ranges)) != tuple(piece.shape) or not piece.size or any(r.step < 1 for r in ranges):
                raise ProbeError(f"{title} has shape {tuple(piece.shape)}; the parameter there has {tuple(map(len, ranges))}")
            for other in places.setdefault(piece.parameter, []):
                if all(map(_meet, ranges, other)):
                    raise ProbeError(f"block {block.name!r} lists entries of {piece.parameter!r} twice")
            places[piece.parameter].append(ranges)


def _meet(a: range, b: range) -> bool:
    return max(a.start, b.start) < min(a.stop, b.stop) if a.step == b.step == 1 else not set(a).isdisjoint(b)


def make_blocks(
    model: nn.Module, blocks: str | Mapping[str, str] | Sequence[Block] = "tensor", *, select: str | None = None
) -> list[Block]:
    r"""Divide the trainable parameters into blocks.

    Parameters
    ----------
    blocks : str, mapping or sequence of Block
        * ``"tensor"``: each parameter; ``"layer"``: the parameters of one module (weight and bias together);
        * ``"head"``: query, key and value rows of each attention head, fused projections split (query rows alone where
          several heads share keys and values); ``"model"``: everything;
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
        made = list(blocks) if isinstance(blocks, Iterable) else []
        if not made or not all(isinstance(block, Block) for block in made):
            if isinstance(blocks, Iterable):
                raise ProbeError("blocks is a sequence; it must hold at least one Block and nothing else")
            raise ProbeError(f"blocks is {blocks!r}; use one of {', '.join(KINDS)}, a regular expression, a mapping or Block objects")
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
            _explain_frozen(model, parameters, select)
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
        _explain_frozen(model, parameters, expression)
        raise ProbeError(_no_match(expression, list(parameters)))
    return matches


def _explain_frozen(model: nn.Module, parameters: Mapping[str, nn.Parameter], expression: str) -> None:
    others = [name for name, _ in model.named_parameters() if name not in parameters and re.search(expression, name)]
    if others:
        raise ProbeError(
            f"{expression!r} matches only parameters that are frozen or integer, such as {others[0]!r}; unfreeze or dequantise them"
        )


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


_FUSED = ("qkv", "c_attn", "in_proj", "Wqkv", "qkv_proj", "query_key_value")
_SEPARATE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"))
_SUFFIXES = (".weight", ".bias", "_weight", "_bias")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads", "n_kv_heads", "n_kv_head", "num_query_groups")
_WIDTHS = ("head_dim", "head_size", "attention_head_size")


def _head_pieces(prefix: str, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[list[Piece]]:
    """Return the pieces of each query head; projections whose rows do not divide as expected are left out."""
    count = _count(module, "num_heads", "num_attention_heads", "n_head", "n_heads")
    groups = _count(module, *_KEY_HEADS) or count
    if not count or count % groups:
        return []
    heads: list[list[Piece]] = [[] for _ in range(count)]
    for fused in _FUSED:
        for name in (f"{prefix}{fused}{suffix}" for suffix in _SUFFIXES):
            if name in parameters:
                cuts = _fused_cuts(module, fused, parameters[name].shape, count, groups, _axis(prefix, name, module))
                _cut(heads, name, parameters[name], cuts)
    for triple in _SEPARATE:
        found = [[f"{prefix}{part}{s}" for s in _SUFFIXES if f"{prefix}{part}{s}" in parameters] for part in triple]
        if not any(found):
            continue
        rows = {name: parameters[name].shape[_axis(prefix, name, module)] for names in found for name in names}
        queries, keys = ({rows[name] for name in names} for names in found[:2])
        # Keys and values with fewer heads belong to no single query head.
        own = groups == count and len(queries | keys) == 1
        for name in (*found[0], *(found[1] + found[2] if own else [])):
            if rows[name] % count == 0:
                width = rows[name] // count
                _cut(heads, name, parameters[name], (_axis(prefix, name, module), width, [[k * width] for k in range(count)]))
        break
    return heads


def _axis(prefix: str, name: str, module: nn.Module) -> int:
    owner: Any = module
    for step in name[len(prefix):].split(".")[:-1]:
        owner = getattr(owner, step)
    # transformers' Conv1D stores (in, out): heads are columns there.
    return 1 if type(owner).__name__ == "Conv1D" and name.endswith("weight") else 0


_Cuts = tuple[int, int, list[list[int]]]
"""Axis, width, and where the slices of each head start."""


def _fused_cuts(module: nn.Module, fused: str, shape: Sequence[int], count: int, groups: int, axis: int) -> _Cuts | None:
    total, share = shape[axis], count // groups
    if total % (count + 2 * groups):
        return None
    width = total // (count + 2 * groups)
    known = _count(module, *_WIDTHS) or _count(module, "embed_dim", "hidden_size") // count
    weight = getattr(getattr(module, fused, None), "weight", None)
    if not known and isinstance(weight, Tensor) and weight.ndim == 2 and not _count(module, *_KEY_HEADS):
        known = weight.shape[1 - _axis("", f"{fused}.weight", module)] // count
    if known and width != known:
        return None  # another number of key heads than the module says
    # GPT-NeoX, BLOOM and Falcon put keys and values behind the queries that share them; so does GPTBigCode with all heads.
    if fused == "query_key_value" or (fused == "c_attn" and getattr(module, "multi_query", None) is False):
        starts = [[((k // share) * (share + 2) + k % share) * width] for k in range(count)]
        steps = (width, 2 * width)
    else:
        starts = [[k * width] for k in range(count)]
        steps = (count * width, 2 * count * width)
    if share == 1:
        starts = [[first, *(first + step for step in steps)] for (first,) in starts]
    return axis, width, starts


def _cut(heads: Sequence[list[Piece]], name: str, p: Tensor, cuts: _Cuts | None) -> None:
    if cuts is None:
        return
    axis, width, starts = cuts
    shape = tuple(width if k == axis else size for k, size in enumerate(p.shape))
    for pieces, places in zip(heads, starts, strict=True):
        pieces += [Piece(name, shape, (slice(None),) * axis + (slice(start, start + width),)) for start in places]


def _count(module: nn.Module, *names: str) -> int:
    config = getattr(module, "config", None)
    for holder in (module, config):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return 0
