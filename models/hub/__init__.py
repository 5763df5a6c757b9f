"""Checkpoints by their name on a hub of models, kept in the cache of ``huggingface_hub``."""
