"""Constraints of requests: JSON schemas, regular expressions and choices, compiled to automata."""
