"""Run checks with their negative controls, re-check what they return, and compare verdicts with the expected ones."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deva_theory.certify import MissingExtra
from deva_theory.claims.files import plain
from deva_theory.claims.ledger import Ledger, LedgerError
from deva_theory.claims.loading import resolve
from deva_theory.claims.model import Claim, Counterexample, Evidence, Run, Verdict
from deva_theory.recheck import recheck
from deva_theory.runtime import Cache, Progress, source_hash

__all__ = ["Outcome", "control_fails", "evidence_content", "fingerprint", "replay_violation", "run_claim", "verify"]

_DEPENDENCIES = ("torch", "numpy", "scipy", "sympy", "mpmath", "python-flint", "PEPit", "clarabel", "cvxpy")


@dataclass(frozen=True)
class Outcome:
    """How one claim came out of a run.

    Attributes
    ----------
    claim : Claim
    verdict : Verdict
        INCONCLUSIVE where the check raised; the expected one where it was not due in this tier.
    evidence : mapping
        The fields of `Evidence` in JSON types; empty where nothing ran.
    control : mapping
        ``statement``, ``verdict`` and ``summary`` of the negative control.
    problems : tuple of str
        What makes the verdict worthless: the check raised, its control passed, a certificate was rejected, ...
    marked : tuple of str
        Refuted premises.
    origin : str
        "run", "cache", "unchecked" (NOT_CHECKED), "tier" (full tier only), "extra" (an optional dependency is missing).
    note : str
        One line about the origin.
    seconds : float
    """

    claim: Claim
    verdict: Verdict
    evidence: Mapping[str, Any] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    origin: str = "run"
    note: str = ""
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether somebody has to look: another verdict than expected, or a worthless one."""
        return bool(self.problems) or (self.origin in ("run", "cache") and self.verdict is not self.claim.expected)


def verify(
    ledger: Ledger,
    claims: Sequence[Claim],
    root: Path,
    *,
    full: bool = False,
    cache: Cache | None = None,
    progress: Progress | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
) -> list[Outcome]:
    """Run the checks of some claims.

    Parameters
    ----------
    ledger : Ledger
        For the premises.
    claims : sequence of Claim
    root : Path
        The clone.
    full : bool, default False
        The full tier's budgets, and the claims that are due only there.
    cache : Cache, optional
        Finished checks are kept there: an interrupted run resumes. Everything a check depends on is in the address.
    progress : Progress, optional
    on_outcome : callable, optional
        Called with every outcome as it is found.

    Returns
    -------
    list of Outcome
        In the order of `claims`.
    """
    cache = cache or Cache(root, enabled=False)
    progress = progress or Progress("silent")
    state = fingerprint(root)
    found: list[Outcome] = []
    with progress.task("verify", total=len(claims)) as task:
        for claim in claims:
            outcome = _outcome(claim, root, full, cache, state)
            found.append(outcome)
            if outcome.problems:
                progress.say(f"{claim.id}: {outcome.problems[0].splitlines()[-1]}")
            if on_outcome is not None:
                on_outcome(outcome)
            task.advance()
    verdicts = {outcome.claim.id: outcome.verdict for outcome in found}
    return [dataclasses.replace(o, marked=ledger.refuted_premises(o.claim, verdicts)) for o in found]


def run_claim(claim: Claim, root: Path, *, full: bool = False) -> dict[str, Any]:
    """Run one check and its control, and look for reasons not to trust them.

    Returns
    -------
    dict
        ``evidence``, ``control`` and ``problems``, in JSON types.

    Raises
    ------
    MissingExtra
        If the check needs an optional dependency that is not installed.
    """
    assert claim.check is not None
    check = resolve(root, claim.check)
    evidence = _evidence_of(check(Run(full=full)), claim)
    twin = _evidence_of(check(Run(full=full, twin=True)), claim)
    problems = []
    if control_fails(evidence.verdict, twin.verdict):
        problems.append(f"the negative control passed: {evidence.verdict} for the claim, {twin.verdict} for '{claim.control}'")
    if evidence.verdict.recheckable:
        report = recheck({"certificates": plain(evidence.certificates)})
        if not report.ok:
            problems.append("the certificate was rejected: " + "; ".join(report.lines[-3:]))
    fields = plain(evidence, claim.id)
    if evidence.verdict is Verdict.REFUTED:
        problems += _replay_problems(fields["counterexample"], root)
    return {
        "evidence": fields,
        "control": {"statement": claim.control, "verdict": str(twin.verdict), "summary": twin.summary},
        "problems": problems,
    }


def control_fails(verdict: Verdict, twin: Verdict) -> bool:
    """Return whether a check gives its altered statement no opposite verdict, so that it cannot tell true from false.

    The control of a standing claim is a false statement, which must be refuted; the control of a refuted one is its true
    repair, which must stand.
    """
    if verdict.stands:
        return twin is not Verdict.REFUTED
    if verdict is Verdict.REFUTED:
        return not twin.stands
    return False


def replay_violation(counterexample: Counterexample | Mapping[str, Any], root: Path) -> float:
    """Recompute by how much a counter-example violates its statement."""
    fields = counterexample if isinstance(counterexample, Mapping) else dataclasses.asdict(counterexample)
    return float(resolve(root, fields["replay"])(**fields["data"]))


def evidence_content(outcome: Outcome, *, full: bool) -> dict[str, Any]:
    """Return the hashed part of an evidence file: what was claimed, and everything that was found."""
    claim, evidence = outcome.claim, dict(outcome.evidence)
    counterexample = evidence.pop("counterexample", None)
    return {
        "claim": claim.id,
        "statement": claim.statement,
        "assumptions": list(claim.assumptions),
        "source": claim.source,
        "tolerance": claim.tolerance,
        "tier": "full" if full else "fast",
        **evidence,
        "counterexample": counterexample and counterexample["name"],
        "control": dict(outcome.control),
        "problems": list(outcome.problems),
    }


def fingerprint(root: Path) -> str:
    """Hash everything besides a claim's own entry that a verdict can depend on: code, committed tables, versions."""
    folders = [Path(__file__).parent.parent, *(f for f in (root / "paper_checks", root / "experiments") if f.is_dir())]
    tables = sorted((root / "figures" / "data").glob("*.csv"))
    return json.dumps([source_hash([*folders, *tables]), {name: _version(name) for name in _DEPENDENCIES}])


def _outcome(claim: Claim, root: Path, full: bool, cache: Cache, state: str) -> Outcome:
    if claim.check is None:
        return Outcome(claim, Verdict.NOT_CHECKED, origin="unchecked", note=claim.reason or "")
    if claim.tier == "full" and not full:
        return Outcome(claim, claim.expected, origin="tier", note="checked in the full tier only")
    began = time.monotonic()

    def compute() -> dict[str, Any]:
        return {"finding": json.dumps(run_claim(claim, root, full=full))}

    address = {"claim": claim.id, "check": claim.check, "control": claim.control, "full": full, "state": state}
    misses = cache.misses
    try:
        finding = json.loads(cache.get_or_compute(f"claim-{claim.id}", address, compute, sources=[])["finding"])
    except MissingExtra as missing:
        if claim.extra is None:
            return Outcome(claim, Verdict.INCONCLUSIVE, problems=(f"{missing} (claims.toml names no extra for this claim)",))
        return Outcome(claim, Verdict.NOT_CHECKED, origin="extra", note=str(missing))
    except LedgerError as error:  # no such function, or no such replay
        return Outcome(claim, Verdict.INCONCLUSIVE, problems=(f"claims.toml, line {claim.line}: {error}",))
    except Exception as error:  # one broken check must not hide the others' verdicts
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"the check raised {type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
        return Outcome(claim, Verdict.INCONCLUSIVE, problems=(line,), seconds=time.monotonic() - began)
    return Outcome(
        claim,
        Verdict(finding["evidence"]["verdict"]),
        finding["evidence"],
        finding["control"],
        tuple(finding["problems"]),
        origin="run" if cache.misses > misses else "cache",
        seconds=time.monotonic() - began,
    )


def _evidence_of(value: object, claim: Claim) -> Evidence:
    if not isinstance(value, Evidence):
        raise TypeError(f"{claim.check} returned a {type(value).__name__}, not an Evidence")
    return value


def _replay_problems(counterexample: dict[str, Any] | None, root: Path) -> Iterable[str]:
    if counterexample is None:
        return ["REFUTED without a counter-example"]
    # Through JSON: what replays here is what the file will hold.
    violation = replay_violation(json.loads(json.dumps(counterexample)), root)
    counterexample["violation"] = plain(violation)
    margin = counterexample["margin"]
    if not violation > margin > 0:
        return [f"the counter-example {counterexample['name']} does not replay: violation {violation:.6g}, margin {margin:.6g}"]
    return []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
