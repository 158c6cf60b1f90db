"""Checks of the paper's claims: shipped counter-examples, and one file per group of claims.

The package `deva_theory` never imports from here; its command line finds the project's root
and loads these modules.
"""
