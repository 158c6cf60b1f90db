"""What ``deva-theory rates`` runs: the problem, the rules with the statements that cover them, and the noise; the user's own too."""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from deva_theory.cli.errors import BadInput
from deva_theory.cli.rates_options import INSTANCES, MATRIX_RULES, RULES_DEFAULT
from deva_theory.cli.user_code import called, imported, place, users_frame
from deva_theory.problems.families import Constants, Oracle, Problem
from deva_theory.problems.families.oracles import Additive
from deva_theory.rates import AssumptionError, catalogue
from deva_theory.rates.coverage import UpdateRule, check_covered

__all__ = ["Wanted", "add_noise", "check_size", "checked", "counted", "guarded", "note", "plural", "problem_of", "wanted"]

_DTYPES = (torch.float64, torch.float32)
_VECTOR_STATEMENTS = ("R1", "R2", "R5")
_NUMBERS = 30
"""float64 numbers that a run holds for each coordinate at its busiest, less than measured for every family."""


@dataclass(frozen=True)
class Wanted:
    """One rule under one statement.

    Attributes
    ----------
    statement, name : str
        The rule's name as the user gave it.
    rule : UpdateRule
    """

    statement: str
    name: str
    rule: UpdateRule


def note(text: str) -> None:
    """Say on standard error what a user may not expect."""
    print(f"deva-theory: note: {text}", file=sys.stderr)


def plural(count: int, what: str) -> str:
    """Return ``1 seed``, ``2 seeds``, …."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def counted(problem: Problem, options: argparse.Namespace) -> str:
    """Return the problem's name with the numbers of instances and seeds."""
    return f"{problem.name}, {plural(math.prod(problem.batch_shape), 'instance')}, {plural(options.seeds, 'seed')}"


# ---- problems --------------------------------------------------------------------------------------------------------


def checked(options: argparse.Namespace, horizons: tuple[int, ...]) -> Problem:
    """Return the problem that the options name, of a size that fits into memory; errors as of `problem_of` and `check_size`."""
    problem = problem_of(options)
    check_size(options, horizons, math.prod(problem.event_shape), math.prod(problem.batch_shape))
    return problem


def problem_of(options: argparse.Namespace) -> Problem:
    """Return the problem that the options name: of the catalogue, or the user's own, which is checked.

    Raises
    ------
    BadInput
        The user's own cannot be had, or is no `Problem` that can be run.
    """
    count = INSTANCES if options.instances is None else options.instances
    if ":" not in options.problem:
        if options.problem == "logistic" and options.seed:
            note("--seed changes starts and noise alone: the data of logistic are what they are")
        return catalogue.FAMILIES[options.problem](count, options.seed)
    found: Any = imported(options.problem, "PROBLEM")
    if isinstance(found, Problem):
        given = [name for name, value in (("--instances", options.instances), ("--seed", options.seed)) if value]
        if given:
            note(f"{options.problem} is a Problem and no factory: its instances are what they are, whatever {' and '.join(given)} say")
    elif callable(found):
        remedy = "; it is called with the number of instances and a seed, and returns a Problem"
        found = called(found, options.problem, count, options.seed, remedy=remedy)
    if not isinstance(found, Problem):
        raise BadInput(
            f"{options.problem} gives a {type(found).__name__}: name a deva_theory.problems.families.Problem, or a function of the number "
            "of instances and a seed that returns one"
        )
    _check_own(options.problem, found)
    return found


def _check_own(name: str, problem: Problem) -> None:
    """Raise unless types, shapes and constants fit; whether they are true is what runs look at (`deva_theory.rates.watch`)."""
    for key in ("batch_shape", "event_shape"):
        shape = getattr(problem, key)
        if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
            raise BadInput(f"{name}: {key} is {shape!r}; use a torch.Size, such as torch.Size([3])")
    event, constants = tuple(problem.event_shape), problem.constants
    if len(event) != problem.event_ndim or problem.event_ndim not in (1, 2) or min((*event, *problem.batch_shape)) < 1:
        raise BadInput(f"{name}: event_shape is {event}; use (d,) with event_ndim 1 or (m, n) with event_ndim 2, and at least one instance")
    if not isinstance(problem.name, str):
        raise BadInput(f"{name}: its name is a {type(problem.name).__name__}; use a string")
    if not isinstance(constants, Constants):
        raise BadInput(f"{name}: constants are a {type(constants).__name__}; return deva_theory.problems.families.Constants")
    _check_tensor(f"{name}: like", problem.like)
    whole = (*problem.batch_shape, *event)
    spectral = {} if constants.spectral is None else {"spectral": constants.spectral}
    by_instance = {
        "optimum": constants.optimum, "box": constants.box, "euclidean": constants.euclidean,
        "gradient_lipschitz_linf": constants.gradient_lipschitz_linf, **spectral,
    }
    for key, x in {**by_instance, "coordinate": constants.coordinate}.items():
        shape = whole if key == "coordinate" else tuple(problem.batch_shape)
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float64 or tuple(x.shape) != shape:
            got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise BadInput(f"{name}: constants.{key} is {got}; use a float64 tensor of shape {shape}")
        if x.requires_grad:
            raise BadInput(f"{name}: constants.{key} requires a gradient; detach() it")
    generator = torch.Generator().manual_seed(0)
    x = problem.start(generator, (1,))
    _check_tensor(f"{name}: start(generator, (1,))", x)
    if tuple(x.shape) != (1, *whole):
        raise BadInput(f"{name}: start(generator, (1,)) has shape {tuple(x.shape)}; use (1, *batch_shape, *event_shape) = {(1, *whole)}")
    value, gradient = problem.value(x), problem.gradient(x)
    _check_tensor(f"{name}: _value", value)
    _check_tensor(f"{name}: _gradient", gradient)
    if tuple(value.shape) != (1, *problem.batch_shape) or tuple(gradient.shape) != tuple(x.shape):
        raise BadInput(
            f"{name}: of points of shape {tuple(x.shape)} _value has shape {tuple(value.shape)} and _gradient {tuple(gradient.shape)}; use "
            f"{(1, *problem.batch_shape)} and {tuple(x.shape)}"
        )


def _check_tensor(name: str, x: Any) -> None:
    """Raise unless it is a tensor of float64 or float32 that requires no gradient."""
    if not isinstance(x, torch.Tensor) or x.dtype not in _DTYPES:
        got = f"of {x.dtype}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
        raise BadInput(f"{name} is {got}; use a tensor of float32 or float64")
    if x.requires_grad:
        raise BadInput(f"{name} requires a gradient: detach() the problem's parameters")


# ---- rules -----------------------------------------------------------------------------------------------------------


def wanted(problem: Problem, options: argparse.Namespace, horizons: tuple[int, ...]) -> list[Wanted]:
    """Return the rules with their statements, those that cover each rule unless the user names some.

    Raises
    ------
    BadInput
        A rule for matrices on vectors, statements that do not cover a rule, or an own rule that cannot be had.
    """
    found, noiseless, left_out = [], options.oracle == "none", False
    for name in options.rules or RULES_DEFAULT:
        rule, usual, possible = _rule(problem, name)
        if ":" in name:
            _try_rule(name, rule, problem, (len(horizons), 1, options.seeds))
        if options.statements is not None:
            chosen = [statement for statement in options.statements if statement in possible]
            if not chosen:
                raise BadInput(f"--statement {','.join(options.statements)} names none that covers {name}: use {', '.join(possible)}")
        else:
            # R2 and R5 are about noise.
            chosen = [statement for statement in usual if not (noiseless and statement in ("R2", "R5"))]
            left_out |= len(chosen) < len(usual)
        found += [Wanted(statement, name, rule) for statement in chosen]
    idle = [statement for statement in options.statements or () if all(one.statement != statement for one in found)]
    if idle:
        note(f"no rule here falls under {', '.join(idle)}: left out (R3 is about matrices, R1, R2 and R5 about Γ ⊙ sign)")
    if left_out:
        note("R2 and R5 are about noise, and --oracle none leaves them out")
    if all(one.statement == "R1" for one in found):
        for option, value in (("--oracle", options.oracle), ("--sigma", options.sigma)):
            if value not in (None, "none"):
                note(f"R1 has exact gradients: {option} {value} changes nothing")
    return sorted(found, key=lambda one: one.statement)


def _rule(problem: Problem, name: str) -> tuple[UpdateRule, tuple[str, ...], tuple[str, ...]]:
    """Return a rule, the statements that it runs under by default, and those it can run under."""
    if ":" not in name:
        if name in MATRIX_RULES and problem.event_ndim == 1:
            fitting = "e1-heterogeneous, e1-homogeneous or factorisation"
            raise BadInput(f"{name} is a rule for matrices, and {problem.name} has vectors: use {fitting}")
        covering = ("R3",) if name in MATRIX_RULES else _VECTOR_STATEMENTS
        return catalogue.METHODS[name].rule(problem.event_ndim), covering, covering
    factory: Any = imported(name, "--rule")
    hint = "a function of the number of dimensions of one variable (1: vectors, 2: matrices) that returns a deva_theory.rules.Rule"
    if isinstance(factory, type) or not callable(factory):
        what = "a class" if isinstance(factory, type) else f"a {type(factory).__name__}"
        raise BadInput(f"{name} is {what}: name {hint}")
    rule = called(factory, name, problem.event_ndim, remedy=f"; it must be {hint}")
    if not all(hasattr(rule, part) for part in ("name", "init", "update")):
        raise BadInput(f"{name} gives a {type(rule).__name__}: name {hint}")
    matrices = ("R3",) if problem.constants.spectral is not None else ()
    try:
        check_covered("R1", rule)
    except AssumptionError as error:
        if not matrices:
            raise BadInput(str(error)) from error
        return rule, matrices, matrices
    return rule, _VECTOR_STATEMENTS, (*_VECTOR_STATEMENTS, *matrices)


def _try_rule(name: str, rule: UpdateRule, problem: Problem, leading: tuple[int, ...]) -> None:
    """Raise unless an own rule answers one random gradient, of the shape that runs have, with a finite direction of that shape."""
    shape = (*leading, *problem.batch_shape, *problem.event_shape)
    like = problem.like
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype).to(like.device)
    trial = f"{name}: update(gradient, state, diagnostics=True, check_finite=False) of a random gradient of shape {shape}"
    try:
        answer: Any = rule.update(gradient, rule.init(gradient), diagnostics=True, check_finite=False)
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or _memory_words(str(error)):
            raise
        raise BadInput(f"{trial} failed: {place(error)}") from error
    if not isinstance(answer, tuple) or len(answer) != 3 or not isinstance(answer[1], dict):
        remedy = "return the direction, the state (a dict) and deva_theory.rules.Diagnostics"
        raise BadInput(f"{trial} returns a {type(answer).__name__}; {remedy}")
    direction = answer[0]
    if not isinstance(direction, torch.Tensor) or direction.shape != gradient.shape or direction.dtype != gradient.dtype:
        got = f"{direction.dtype} of shape {tuple(direction.shape)}" if isinstance(direction, torch.Tensor) else type(direction).__name__
        raise BadInput(f"{trial} gives a direction that is {got}; return {gradient.dtype} of the gradient's shape")
    if direction.requires_grad:
        raise BadInput(f"{trial} gives a direction that requires a gradient: detach() the rule's parameters")
    if not bool(direction.isfinite().all()):
        raise BadInput(f"{trial} gives a direction that is not finite")


# ---- noise -----------------------------------------------------------------------------------------------------------


def add_noise(problem: Problem, options: argparse.Namespace) -> tuple[str, Oracle | None]:
    """Return the stochastic gradient that the options name, with its name; None for exact gradients.

    Raises
    ------
    BadInput
        ``--sigma`` with the rows of a finite sum, whose deviation is their own.
    ValueError
        From the catalogue: rows of what is no finite sum.
    """
    name = options.oracle or catalogue.default_oracle(problem)
    if name == "none":
        return name, None
    oracle = catalogue.oracle(name, problem)
    if options.sigma is not None:
        if not isinstance(oracle, Additive):
            raise BadInput(f"--sigma is of additive noise, and rows of {options.problem} have their own: add --oracle gaussian or drop it")
        oracle = replace(oracle, deviation=options.sigma * oracle.deviation)
    return name, oracle


# ---- limits ----------------------------------------------------------------------------------------------------------


def check_size(options: argparse.Namespace, horizons: tuple[int, ...], coordinates: int, count: int | None = None) -> None:
    """Raise if the runs cannot fit into this machine's memory.

    Parameters
    ----------
    options : Namespace
    horizons : tuple of int
    coordinates : int
        Of one variable.
    count : int, optional
        Instances; default those that the options ask for.
    """
    size = _gigabytes(options, horizons, coordinates, count)
    if size > _memory():
        raise BadInput(_too_large(options, horizons, size, count))


def _gigabytes(options: argparse.Namespace, horizons: tuple[int, ...], coordinates: int, count: int | None) -> float:
    count = count or options.instances or INSTANCES
    return 8 * _NUMBERS * (len(horizons) * options.seeds * count * coordinates + max(horizons)) / 1e9


def _memory() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (AttributeError, ValueError, OSError):
        return math.inf  # not this system's names; an allocation that fails is caught


def _too_large(options: argparse.Namespace, horizons: tuple[int, ...], size: float, count: int | None) -> str:
    count = count or options.instances or INSTANCES
    what = "numbers of gradients" if options.known else "horizons"
    return f"{count} instances × {options.seeds} seeds × {len(horizons)} {what} up to {horizons[-1]} need about {size:.3g} GB: use fewer"


@contextmanager
def guarded(options: argparse.Namespace, horizons: tuple[int, ...]) -> Iterator[None]:
    """Turn what the user's input causes into `BadInput`: failed assumptions, memory, and with code of the user's own any error."""
    own = ", ".join(name for name in (options.problem, *(options.rules or ())) if ":" in name)
    try:
        yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _memory_words(str(error))):
            raise BadInput(_too_large(options, horizons, _gigabytes(options, horizons, 6, None), None)) from error
        if users_frame(error):
            raise BadInput(f"your own code failed{f' ({own})' if own else ''}: {place(error)}") from error
        known = isinstance(error, AssumptionError) or (isinstance(error, ValueError | ImportError) and not own)
        if known and str(error):
            raise BadInput(str(error).splitlines()[0]) from error
        if own:
            raise BadInput(f"{own} cannot be run: {place(error)}") from error
        raise


def _memory_words(text: str) -> bool:
    # torch has no error class for the memory of the CPU.
    return any(words in text.lower() for words in ("allocate memory", "out of memory", "storage size calculation overflowed", "numel:"))
