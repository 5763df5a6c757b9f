"""Networks, one module for each model family."""
