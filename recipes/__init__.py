"""Programs that make the bundled checkpoints."""
