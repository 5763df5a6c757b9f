"""Which rows of logits a step needs, and what is read from them."""
