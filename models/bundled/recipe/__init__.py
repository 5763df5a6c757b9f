"""What the recipes of the bundled checkpoints share: downloads and training runs."""
