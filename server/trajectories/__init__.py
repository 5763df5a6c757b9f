"""Recorded trajectories: store, replay and rendering."""
