"""Measurements, each with its command; records in results/."""
