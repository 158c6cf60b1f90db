"""``deva-theory falsify``: search for a violation of one claim until a time is up, and keep what is found."""

import argparse
import time

from deva_theory.certify import MissingExtra
from deva_theory.claims import Claim, Counterexample, LedgerError, Run, Verdict, replay_file, resolve, snippet
from deva_theory.claims.files import read_file, write_file
from deva_theory.cli.claims import project_ledger
from deva_theory.cli.errors import BadInput, Exit
from deva_theory.cli.pipeline import set_threads
from deva_theory.cli.project import Project
from deva_theory.runtime import Progress

__all__ = ["run"]


def run(options: argparse.Namespace) -> Exit:
    """Run the command; see `deva_theory.cli.app` for its options."""
    project, ledger = project_ledger(options)
    try:
        claim = ledger.one(options.id)
    except LedgerError as error:
        raise BadInput(str(error)) from None
    if claim.check is None:
        raise BadInput(f"{claim.id} is NOT_CHECKED ({claim.reason}): there is no check to attack")
    if claim.falsify is None and claim.expected in (Verdict.PROVED, Verdict.CERTIFIED):
        near = [other.id for other in ledger.values() if other.falsify and other.id.partition("-")[0] == claim.id.partition("-")[0]]
        others = near or [other.id for other in ledger.values() if other.falsify]
        raise BadInput(f"{claim.id} is {claim.expected} by {claim.method}: nothing random to search; attack {', '.join(others[:6])}")
    set_threads(options.threads)
    try:
        with Progress("silent" if options.quiet else "auto") as progress:
            found, line = (_search if claim.falsify else _reseed)(project, claim, options.budget, progress)
    except (LedgerError, MissingExtra) as error:
        raise BadInput(str(error)) from None
    print(line)
    if found is None:
        if claim.expected is Verdict.REFUTED:
            print(f"no violation, but {claim.id} is REFUTED: `deva-theory explain {claim.id}` shows the known one; raise --budget")
        return Exit.OK
    path = project.build / "claims" / "counterexamples" / f"{found.name}.json"
    write_file(path, {**vars(found), "claim": claim.id})
    violation, margin = replay_file(path, project.root)
    if not violation > margin:
        raise BadInput(
            f"{claim.id}: what was found does not replay, violation {violation:.6g}, margin {margin:.3g}: "
            f"correct {found.replay} or the search, which disagree"
        )
    print(f"violation {violation:.6g} (margin {margin:.3g}), kept in {path.relative_to(project.root).as_posix()}:")
    print(snippet({**read_file(path)["content"], "violation": violation}))
    return Exit.OK if claim.expected is Verdict.REFUTED else Exit.CHANGED


def _search(project: Project, claim: Claim, seconds: float, progress: Progress) -> tuple[Counterexample | None, str]:
    """Multistart search on the claim's own search problem."""
    from deva_theory.certify import as_data, falsify_for, shrink

    assert claim.falsify is not None
    problem = resolve(project.root, claim.falsify)()
    with progress.task(f"falsify {claim.id}") as task:
        result = falsify_for(problem, seconds, lambda *_: task.advance())
    line = f"{claim.id}: largest violation {result.violation:.6g} in {result.evaluations:,} evaluations"
    if not result.violation > problem.margin:
        return None, f"{line}; the statement stands (margin {problem.margin:.3g})"
    x = shrink(problem, result.x, problem.margin)
    if problem.replay is None:
        raise LedgerError(f"{line}, at {x.tolist()}; {claim.falsify} sets no replay, so that nothing can be kept: add one")
    return Counterexample(f"{claim.id}-falsified", problem.statement, problem.replay, as_data(problem, x), problem.margin), line


def _reseed(project: Project, claim: Claim, seconds: float, progress: Progress) -> tuple[Counterexample | None, str]:
    """Run the claim's check with fresh seeds; a check that uses none says so by its evidence."""
    assert claim.check is not None
    check = resolve(project.root, claim.check)
    until, seed = time.monotonic() + seconds, 0
    with progress.task(f"falsify {claim.id}") as task:
        while seed == 0 or time.monotonic() < until:
            seed += 1
            evidence = check(Run(full=True, seed=seed))
            if evidence.seed is None:
                raise BadInput(f"{claim.id}: its check uses no random numbers, so that another seed changes nothing")
            task.advance()
            if evidence.verdict is Verdict.REFUTED:
                if evidence.counterexample is not None:
                    return evidence.counterexample, f"{claim.id}: REFUTED with seed {seed}: {evidence.summary}"
                raise BadInput(f"{claim.id}: REFUTED with seed {seed} but without numbers that replay: {evidence.summary}")
    return None, f"{claim.id}: {seed} fresh seeds, none REFUTED it"
