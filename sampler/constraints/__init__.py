"""Texts of a regular language on a canvas: automata over tokens, and exact joint draws."""
