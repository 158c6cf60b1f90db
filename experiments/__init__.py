"""Experiments: each module computes tables from a configuration; nothing here draws."""
