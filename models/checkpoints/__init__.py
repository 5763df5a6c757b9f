"""Checkpoint folders: read, checked, converted and written."""
