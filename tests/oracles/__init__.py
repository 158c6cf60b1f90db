"""Oracles: slow, literal versions of the update rules, written from the specification alone.

They share no code with the package. Each works on one float64 matrix (or vector), with scalar loops.
"""
