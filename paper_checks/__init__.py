"""Checks of the claims in ``claims.toml``: one module for each group, each named by what its claims are about.

`verdicts`, `arrays`, `expressions`, `quadratic_forms`, `inductions`, `gradient_streams`, `entrywise_formula`, `vector_formula`,
`spectral_rule` and `recorded_runs` are what several groups share; ``README.md`` says how a claim is added.

The package `deva_theory` never imports from here; its command line finds the project's root
and loads these modules.
"""
