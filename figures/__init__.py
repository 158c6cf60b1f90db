"""Figures: each module reads figures/data/*.csv and draws."""
