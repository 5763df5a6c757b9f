"""Samplers, one module for each algorithm."""
