"""Everything that is measured on a card, in one command with a time budget.

See ``benchmarks.device.__main__`` for its use and ``docs/benchmarks.md`` for its results.
"""
