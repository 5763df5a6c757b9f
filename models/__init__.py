"""Tokens to hidden states to logits: architectures, checkpoints, tokenizers."""
