"""Likelihood bounds: the NELBO and its Monte Carlo estimate."""
