"""Measured convergence against the bounds R1, R2, R3 and R5: every family, rule and oracle that a statement covers.

*Grid*: a few instances of every family, many seeds and T, for curves, slopes and bound/observed.  *Search*: many random instances of wide
spread at step sizes from a tenth to ten times the statement's, for violations.  *Adaptation*: R4, see `experiments._rates_adaptation`.
*Worst*: R6, instances sought for the largest observed/bound, see `deva_theory.rates.tightness`.  *Terms*: the same for the bounds with one
term left out or halved, see `deva_theory.rates.needed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import deva_theory.certify
import deva_theory.linalg
import deva_theory.problems
import deva_theory.rates
import deva_theory.rules
from deva_theory.problems.families import Problem
from deva_theory.rates import catalogue
from deva_theory.rates.fits import bound_ratio, fit_slope
from deva_theory.rates.needed import ERRORS, NEEDED, TOP, needed_terms
from deva_theory.rates.runner import Measurement, measure
from deva_theory.rates.tightness import SEARCHES, worst_case
from deva_theory.report.tables import Table, compare_tables, format_table
from deva_theory.runtime import Cache, Progress
from deva_theory.runtime.threads import one_thread
from experiments import _rates_adaptation as adaptation
from experiments import _rates_adaptation_table as adaptation_table
from experiments._rates_families import available, columns, comparable, stacked

SOURCES = (deva_theory.certify, deva_theory.linalg, deva_theory.problems, deva_theory.rates, deva_theory.rules, Path(__file__),
           Path(adaptation.__file__), Path(adaptation_table.__file__))  # fmt: skip
EXPONENTS = {"R1": -0.5, "R2": -0.5, "R3": -0.5, "R5": -0.25}
"""Of the bounds with constants that do not depend on T."""
CONTROLS: dict[str, tuple[str, dict[str, float]]] = {
    "R1": ("half the smoothness", {"smoothness": 0.5}),
    "R2": ("no noise term", {"noise": 0.0}),
    "R3": ("half the smoothness", {"smoothness": 0.5}),
    "R5": ("no error of the momentum", {"noise": 0.0}),
}
"""What the negative control leaves out of the bound for one run."""
EXPECTED_CONTROLS = CONTROLS | {"R5": ("no drift", {"drift": 0.0})}
"""The same for the bound in expectation; which of its terms are needed is told by the table ``rates_terms``."""


@dataclass(frozen=True)
class Config:
    """Defaults are the published setting.

    Attributes
    ----------
    families, rules : tuple of str
        Names of `deva_theory.rates.catalogue`.
    steps, matrix_steps : tuple of int
        T, and T of R3, whose steps need singular values.
    seeds, instances : int
        Of the grid.
    more_noise : tuple of str
        Families that R2 also runs with sparse and heavy-tailed noise.
    search_families, search_instances, search_seeds, search_steps, search_scales, search_spread
        Of the search; curvatures are log-uniform on [1/spread, spread].
    contrasts, exponents, adaptation_steps, adaptation_scales
        Of R4.
    worst_steps, worst_starts, worst_rounds
        Of the search for worst instances, R6.
    term_starts, term_rounds : int
        Of the searches with less of one term.
    """

    families: tuple[str, ...] = tuple(catalogue.FAMILIES)
    rules: tuple[str, ...] = tuple(catalogue.METHODS)
    steps: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512, 1000)
    matrix_steps: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    seeds: int = 10
    instances: int = 2
    more_noise: tuple[str, ...] = ("wells",)
    search_families: tuple[str, ...] = ("diagonal", "rotated", "wells", "trace")
    search_instances: int = 350
    search_seeds: int = 16
    search_steps: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    search_scales: tuple[float, ...] = (0.1, 1.0, 10.0)
    search_spread: float = 100.0
    contrasts: tuple[float, ...] = (4.0, 16.0, 32.0)
    exponents: tuple[float, ...] = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    adaptation_steps: int = 2048
    adaptation_scales: int = 81
    worst_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    worst_starts: int = 24
    worst_rounds: int = 40
    term_starts: int = 12
    term_rounds: int = 20


class Cell(NamedTuple):
    """One measurement: what runs on what."""

    part: str
    statement: str
    family: str
    oracle: str
    rule: str


def cells(config: Config) -> Iterator[Cell]:
    """Yield every combination that a statement covers: R1, R2 and R5 take entrywise rules, R3 those for matrices, on matrix families."""
    for family in dict.fromkeys((*config.families, *config.search_families)):
        matrix = family.startswith("e1") or family in ("factorisation", "trace")
        stochastic = "rows" if family.startswith("e1") or family == "logistic" else "gaussian"
        more = ("spikes", "student") if family in config.more_noise else ()
        for rule in config.rules:
            noises: dict[str, tuple[str, ...]]
            if catalogue.METHODS[rule].matrices:
                noises = {"R3": ("none", stochastic)} if matrix else {}
            else:
                noises = {"R1": ("none",), "R2": (stochastic, *more), "R5": (stochastic,)}
            if family in config.families:
                yield from (Cell("grid", statement, family, oracle, rule) for statement in noises for oracle in noises[statement])
            # Matrices are sought for R3 alone: for the other statements they are vectors.
            if family in config.search_families and matrix == ("R3" in noises):
                for statement, oracles in noises.items():
                    yield from (Cell("search", statement, family, oracle, rule) for oracle in oracles if oracle in ("none", stochastic))


def horizons(cell: Cell, config: Config) -> tuple[int, ...]:
    """Return the T of a cell of the grid."""
    return config.matrix_steps if cell.statement == "R3" else config.steps


def run(cell: Cell, config: Config) -> Measurement:
    """Return the measurement of one cell."""
    options: dict[str, Any] = {"steps": horizons(cell, config), "seeds": config.seeds}
    if cell.part == "search":
        draw = getattr(catalogue, cell.family)
        # Singular values in every step are dear.
        share = 8 if cell.statement == "R3" else 1
        problem: Problem = draw(config.search_instances // share, 1, config.search_spread)
        options = {"steps": config.search_steps, "seeds": config.search_seeds, "scales": config.search_scales}
    else:
        problem = catalogue.FAMILIES[cell.family](config.instances, 0)
    oracle = None if cell.oracle == "none" else catalogue.oracle(cell.oracle, problem)
    rule = catalogue.METHODS[cell.rule].rule(problem.event_ndim)
    return measure(problem, rule, statement=cell.statement, oracle=oracle, **options)


def numbers(found: Measurement) -> dict[str, Any]:
    """Return what the tables need: curves of shape (seeds, T), averaged over instances, and counts."""
    name = found.expected
    pairs, violated, closest = found.closest()
    groups, exceeded, nearest = found.closest(name)
    _, caught, control = found.closest(weights=CONTROLS[found.statement][1])
    _, group_caught, group_control = found.closest(name, EXPECTED_CONTROLS[found.statement][1])
    prior = found.right("a_priori") if "a_priori" in found.bounds else torch.full_like(found.left, torch.nan)
    return {
        "left": found.curve(found.left), "plain": found.curve(found.plain), "bound": found.curve(found.right(name)),
        "a_priori": found.curve(prior), "starts": math.prod(found.left.shape[2:]), "horizons": len(found.T), "seeds": found.left.shape[2],
        "pairs": pairs, "violated": violated, "closest": closest, "groups": groups, "exceeded": exceeded, "nearest": nearest,
        "caught": caught, "control": control, "group_caught": group_caught, "group_control": group_control,
        "exact": found.smoothness_exact,
    }  # fmt: skip


def compute(config: Config, *, cache: Cache, progress: Progress) -> dict[str, Table]:
    """Run everything and return the tables; without scikit-learn, which has its data, logistic regression is left out."""
    listed = list(cells(config))
    families = available(list(dict.fromkeys(cell.family for cell in listed)), progress)
    wanted = [cell for cell in listed if cell.family in families]
    results: dict[Cell, Mapping[str, Any]] = {}
    with one_thread(), progress.task("rates: runs against bounds", total=len(wanted) + len(SEARCHES) + len(NEEDED) + 1) as task:
        for cell in wanted:
            results[cell] = cache.get_or_compute("rates-" + "-".join(cell), config, lambda cell=cell: numbers(run(cell, config)),
                                                 sources=SOURCES)  # fmt: skip
            task.advance()
        # With η = 1/Λ, which lands on the minimum from r itself, but not from random starts.
        scales: list[float] = np.geomspace(0.02, 2000.0, config.adaptation_scales).tolist()
        scales += [(config.adaptation_steps / contrast) ** 0.5 for contrast in config.contrasts]
        adapted = cache.get_or_compute("rates-adaptation", config, lambda: adapted_rows(config, scales), sources=SOURCES)
        task.advance()
        worst: list[Table] = []
        for name in SEARCHES:
            key = f"rates-worst-{name.replace(' ', '-').replace(',', '')}"
            worst.append(cache.get_or_compute(key, config, lambda name=name: worst_rows(name, config), sources=SOURCES))
            task.advance()
        terms: list[Table] = []
        for statement, form in NEEDED:
            terms.append(cache.get_or_compute(f"rates-terms-{statement}-{form}", config,
                                              lambda statement=statement, form=form: term_rows(statement, form, config),
                                              sources=SOURCES))  # fmt: skip
            task.advance()
    grid = {cell: result for cell, result in results.items() if cell.part == "grid"}
    return {
        "rates": _curve_table(grid, config), "rates_slopes": _slope_table(grid, config), "rates_pairs": _pair_table(results),
        "rates_adaptation": adapted, "rates_worst": stacked(worst), "rates_terms": stacked(terms),
    }  # fmt: skip


def adapted_rows(config: Config, scales: list[float]) -> dict[str, np.ndarray]:
    """Return the table of R4."""
    table = adaptation_table.adaptation_rows(config.contrasts, config.exponents, config.adaptation_steps, scales)
    return {key: np.asarray(column) for key, column in table.items()}


def worst_rows(name: str, config: Config) -> Table:
    """Return the worst instance that one of `SEARCHES` finds for each T."""
    rows = []
    for T in config.worst_steps:
        found = worst_case(**SEARCHES[name], steps=(T,), starts=config.worst_starts, rounds=config.worst_rounds)
        rows.append({
            "search": name, "statement": found.statement, "noise": found.noise, "T": T, "ratio": found.ratio, "error": found.error,
            "noise_share": found.noise_share, "instances": found.evaluations,
        })  # fmt: skip
    return columns(rows)


def term_rows(statement: str, form: str, config: Config) -> Table:
    """Return what a search finds against a bound with one of its terms left out, or halved."""
    found = needed_terms(statement, form, starts=config.term_starts, rounds=config.term_rounds)
    return columns([x.to_dict() for x in found])


def _label(cell: Cell) -> dict[str, str]:
    return {"statement": cell.statement, "family": cell.family, "oracle": cell.oracle, "rule": cell.rule}


def _curve_table(grid: Mapping[Cell, Mapping[str, Any]], config: Config) -> Table:
    """Means over seeds and instances with the 10th and 90th percentile over seeds, and bound/observed with its interval."""
    rows = []
    for cell, found in grid.items():
        steps = horizons(cell, config)
        ratio = bound_ratio(steps, found["bound"], found["left"])
        low, high = np.quantile(found["left"], [0.1, 0.9], axis=0)
        for k, T in enumerate(steps):
            rows.append(_label(cell) | {
                "T": T, "observed": found["left"][:, k].mean(), "low": low[k], "high": high[k], "plain": found["plain"][:, k].mean(),
                "bound": found["bound"][:, k].mean(), "a_priori": found["a_priori"][:, k].mean(), "ratio": ratio.ratio[k],
                "ratio_low": np.nan if ratio.low is None else ratio.low[k], "ratio_high": np.nan if ratio.high is None else ratio.high[k],
            })  # fmt: skip
    return columns(rows)


def _slope_table(grid: Mapping[Cell, Mapping[str, Any]], config: Config) -> Table:
    """The slope of the left side with its interval; in the same window the slopes of the bound and of ‖∇f‖_1."""
    rows = []
    for cell, found in grid.items():
        steps = horizons(cell, config)
        fit = fit_slope(steps, found["left"])
        window = fit.window
        rows.append(_label(cell) | {
            "exponent": EXPONENTS[cell.statement], "slope": fit.slope, "low": np.nan if fit.low is None else fit.low,
            "high": np.nan if fit.high is None else fit.high, "first": window.first, "straight": int(window.straight),
            "bound_slope": fit_slope(steps, found["bound"], window=window).slope,
            "plain_slope": fit_slope(steps, found["plain"], window=window).slope,
        })  # fmt: skip
    return columns(rows)


def _pair_table(results: Mapping[Cell, Mapping[str, Any]]) -> Table:
    """Counted (instance, T) pairs: single runs against the pathwise bound, seeds' averages against that in expectation, the control."""
    rows = []
    for cell, found in results.items():
        rows.append({"part": cell.part} | _label(cell) | {
            "starts": found["starts"], "horizons": found["horizons"], "seeds": found["seeds"], "pairs": found["pairs"],
            "violated": found["violated"], "closest": found["closest"], "averages": found["groups"],
            "averages_violated": found["exceeded"], "averages_closest": found["nearest"], "exact_smoothness": int(found["exact"]),
            "control": CONTROLS[cell.statement][0], "control_violated": found["caught"], "control_closest": found["control"],
            "averages_control": EXPECTED_CONTROLS[cell.statement][0], "averages_control_violated": found["group_caught"],
            "averages_control_closest": found["group_control"],
        })  # fmt: skip
    return columns(rows)


def summary(tables: dict[str, Table]) -> str:
    """Return the pairs counted for each statement, and slopes by statement and rule."""
    pairs, slopes, curves, adapted = (
        {k: np.asarray(v) for k, v in tables[stem].items()} for stem in ("rates_pairs", "rates_slopes", "rates", "rates_adaptation")
    )
    lines = [*_pair_text(pairs, curves), "", *_slope_text(slopes), "", *adaptation_table.summary_lines(adapted)]
    worst = {k: np.asarray(v) for k, v in tables["rates_worst"].items()}
    steps = np.unique(worst["T"])
    body = []
    for name in dict.fromkeys(worst["search"].tolist()):
        rows = {k: v[worst["search"] == name] for k, v in worst.items()}
        body.append([name, *("none" if x == 0 else x for x in rows["ratio"]), rows["error"].max(), int(rows["instances"].sum())])
    lines += [
        "", "R6: observed/bound of the worst instance that a search finds; noisy: its noise term is about half of the bound or more",
        format_table(body, ["", *(f"T = {T}" for T in steps), "error", "instances"]),
    ]  # fmt: skip
    terms = {k: np.asarray(v) for k, v in tables["rates_terms"].items()}
    body = []
    for key in dict.fromkeys(zip(*(terms[k].tolist() for k in ("statement", "form", "term")), strict=True)):
        rows = {k: v[(terms["statement"] == key[0]) & (terms["form"] == key[1]) & (terms["term"] == key[2])] for k, v in terms.items()}
        body.append([*key, *(f"{r:.3g}" + (" or more" if r == TOP else "") for r in rows["ratio"]), rows["error"].max(),
                     ", ".join(map(str, rows["T"])), int(rows["instances"].sum())])  # fmt: skip
    weights = ["left out" if w == 0 else "halved" if w == 0.5 else f"times {w:g}" for w in dict.fromkeys(terms["weight"].tolist())]
    lines += [
        "", "Is every term needed? observed/bound at worst with the term left out / halved; at most 1: this search does not show it",
        format_table(body, ["", "form", "term", *weights, "error", "T", "instances"]),
    ]  # fmt: skip
    return "\n".join(lines)


def _pair_text(pairs: dict[str, np.ndarray], curves: dict[str, np.ndarray]) -> list[str]:
    part = dict.fromkeys(zip(pairs["part"].tolist(), pairs["family"].tolist(), strict=True))
    counts = pairs["starts"] * pairs["horizons"]
    distinct = sum(int(counts[(pairs["part"] == a) & (pairs["family"] == b)].max()) for a, b in part)
    found, names = [], []
    for statement in dict.fromkeys(pairs["statement"].tolist()):
        rows = {k: v[pairs["statement"] == statement] for k, v in pairs.items()}
        ratios = curves["ratio"][curves["statement"] == statement]
        seeds = np.unique(rows["seeds"])
        numbers = [int(rows[k].sum()) for k in ("pairs", "violated", "control_violated")]
        found.append([f"{statement}, one run", *numbers[:2], rows["closest"].min(), rows["control"][0], numbers[2],
                      rows["control_closest"].min(), ""])  # fmt: skip
        # Without noise R1's average over seeds says nothing that its runs do not.
        if statement != "R1":
            numbers = [int(rows[k].sum()) for k in ("averages", "averages_violated", "averages_control_violated")]
            found.append([
                f"{statement}, average", *numbers[:2], rows["averages_closest"].min(), rows["averages_control"][0], numbers[2],
                rows["averages_control_closest"].min(), np.median(ratios),
            ])  # fmt: skip
        names += [str(n) for n in seeds if str(n) not in names]
    total, violated = int(pairs["pairs"].sum()), int(pairs["violated"].sum())
    return [
        f"Bounds against {total} runs, of which {violated} violate theirs: {distinct} different pairs of instance (problem and start) and",
        "T, each with several statements, rules, step sizes and noises.  One run: the bound before expectations are taken, with the",
        f"realised error; average: the statement itself, means over {' or '.join(names)} seeds (R1's says no more).",
        "Closest: the least bound/observed; median: of the grid's averages.  R5 applies every rule to the averaged gradient, AdaGrad's",
        "sums included.",
        format_table(found, ["", "number", "violated", "closest", "control", "violated", "closest", "median"]),
    ]  # fmt: skip


def _slope_text(slopes: dict[str, np.ndarray]) -> list[str]:
    """Intervals against exponents, and the slopes of the same runs in ‖∇f‖_1, where left sides with different Γ can be compared."""
    steeper, shallower = slopes["high"] < slopes["exponent"], slopes["low"] > slopes["exponent"]
    body = []
    for statement, rule in dict.fromkeys(zip(slopes["statement"].tolist(), slopes["rule"].tolist(), strict=True)):
        here = (slopes["statement"] == statement) & (slopes["rule"] == rule)
        rows = {k: v[here] for k, v in slopes.items()}
        n = int(here.sum())
        body.append([
            statement, rule, rows["exponent"][0], rows["slope"].min(), rows["slope"].max(), int(steeper[here].sum()),
            n - int(steeper[here].sum()) - int(shallower[here].sum()), int(shallower[here].sum()), rows["bound_slope"].min(),
            rows["bound_slope"].max(), rows["plain_slope"].min(), rows["plain_slope"].max(), f"{int((rows['straight'] == 0).sum())} of {n}",
        ])  # fmt: skip
    inside = len(steeper) - int(steeper.sum()) - int(shallower.sum())
    headers = ["", "rule", "exponent", "slope", "to", "steeper", "in", "shallower", "bound's", "to", "‖∇f‖_1's", "to", "bend"]
    return [
        f"Slopes in T of the left sides over families and noises: of {len(steeper)} intervals (95%, over seeds, at the same instances)",
        f"{inside} contain the exponent, {int(steeper.sum())} are steeper and {int(shallower.sum())} shallower.  An interval is for the "
        "slope inside its window of T,",
        "not for the limit of large T.  Bound's: the slope of the bound with measured constants (R5: known ones); ‖∇f‖_1's (R3:",
        "‖∇f‖_*'s): of the same runs, where rules can be compared; bend: curves that bend in every window",
        format_table(body, headers),
    ]  # fmt: skip


# Runs are chaotic near a minimum: another processor's rounding gives other runs of the same distribution.
_LOOSE = (0.25, 0.0)
TOLERANCES = {
    "rates": {k: _LOOSE for k in ("observed", "low", "high", "plain", "bound", "a_priori", "ratio", "ratio_low", "ratio_high")},
    # A bound's slope is more sensitive to the window than that of what is observed, and no conclusion is drawn from it.
    "rates_slopes": {k: (0.0, 0.05) for k in ("slope", "low", "high")} | {k: (0.0, 0.1) for k in ("bound_slope", "plain_slope")}
    | {"first": (1.0, 0.0), "straight": (0.0, 1.0)},
    "rates_pairs": {k: (0.1, 0.0) for k in ("closest", "averages_closest", "control_closest", "averages_control_closest")}
    | {k: (0.25, 30.0) for k in ("control_violated", "averages_control_violated")},
    # ρ of rules is an average along a run; what fixed factors have at the start, and what is proved, is exact.
    "rates_adaptation": {"rho": (0.5, 0.0), "ratio": (0.1, 0.0)} | {k: (1e-5, 0.0) for k in ("rho_start", "proved_low", "proved_high")},
    # A search is chaotic; what it finds is not.
    "rates_worst": {"ratio": (0.0, 0.05), "error": (0.0, 0.02), "noise_share": (0.0, 0.3), "instances": (0.5, 0.0)},
    "rates_terms": {"ratio": (0.35, 0.1), "error": (0.0, 0.1), "T": (0.0, 256.0), "instances": (0.5, 0.0)},
}


NEAR_EXPONENT, NEAR_BOUND, BENDING = 0.02, 0.1, 0.1
"""Where a conclusion may differ: an interval's end so near the exponent, observed/bound so near 1, this share of the curves' bends."""


def changes(stem: str, new: Table, committed: Table) -> list[str]:
    """Return where a new table disagrees with the committed one, which may have logistic regression where this machine has not.

    Numbers beyond their tolerance; and within it, whatever turns a conclusion: the side of an exponent on which an interval lies, whether
    a term is needed, and the number of curves that bend.
    """
    committed = comparable(new, committed)
    lines = [f"column {change.column}: {change.reason}" for change in compare_tables(new, committed, TOLERANCES[stem])]
    conclusions = {"rates_slopes": _slope_conclusions, "rates_terms": _term_conclusions}
    if stem not in conclusions:
        return lines
    a, b = ({k: np.asarray(v) for k, v in table.items()} for table in (new, committed))
    # Other rows than the committed ones are told above, and have no conclusions to compare.
    keys = [k for k in ("statement", "family", "oracle", "rule", "form", "term", "weight") if k in b]
    if set(a) != set(b) or any(not np.array_equal(a[k], b[k]) for k in keys):
        return lines
    return lines + conclusions[stem](a, b)


def _named(rows: Mapping[str, np.ndarray], keys: Sequence[str], row: int) -> str:
    return " ".join(f"{rows[k][row]:g}" if rows[k].dtype.kind == "f" else str(rows[k][row]) for k in keys)


def _slope_conclusions(new: dict[str, np.ndarray], old: dict[str, np.ndarray]) -> list[str]:
    """Sides of the exponent, unless every end that changes them is near it in one of the tables; and how many curves bend."""
    lines = []
    exponent = old["exponent"]
    sides = [np.where(x["high"] < exponent, "steeper", np.where(x["low"] > exponent, "shallower", "in")) for x in (new, old)]
    excused = np.ones(len(exponent), dtype=bool)
    for end, crossed in (("high", (new["high"] < exponent) != (old["high"] < exponent)),
                         ("low", (new["low"] > exponent) != (old["low"] > exponent))):  # fmt: skip
        near = np.minimum(np.abs(new[end] - exponent), np.abs(old[end] - exponent)) <= NEAR_EXPONENT
        excused &= near | ~crossed
    for row in np.flatnonzero((sides[0] != sides[1]) & ~excused).tolist():
        where = [f"{sides[i][row]} [{x['low'][row]:.4g}, {x['high'][row]:.4g}]" for i, x in enumerate((new, old))]
        lines.append(f"exponent {exponent[row]:g}, {_named(old, ('statement', 'family', 'oracle', 'rule'), row)}: the interval is "
                     f"{where[0]}, committed {where[1]}")  # fmt: skip
    flipped = int((new["straight"] != old["straight"]).sum())
    if flipped > BENDING * len(exponent):
        lines.append(f"column straight: {flipped} of {len(exponent)} curves bend in one table alone, allowed {BENDING:.0%}")
    return lines


def _term_conclusions(new: dict[str, np.ndarray], old: dict[str, np.ndarray]) -> list[str]:
    """Whether a term is needed, as in `NeededTerm`, unless observed/bound less its errors is near 1 in both tables."""
    least = [x["ratio"] - ERRORS * x["error"] for x in (new, old)]
    needed = [x > 1 + 1e-9 for x in least]
    near = (np.abs(least[0] - 1) < NEAR_BOUND) & (np.abs(least[1] - 1) < NEAR_BOUND)
    return [
        f"{_named(old, ('statement', 'form', 'term', 'weight'), row)}: {'needed' if needed[0][row] else 'not shown to be needed'}, ratio "
        f"{new['ratio'][row]:.4g} with error {new['error'][row]:.2g}, committed {old['ratio'][row]:.4g} with {old['error'][row]:.2g}"
        for row in np.flatnonzero((needed[0] != needed[1]) & ~near).tolist()
    ]
