"""Scores with their uncertainty, from tables of predictions: metrics, intervals, comparisons, learning curves, domains."""
