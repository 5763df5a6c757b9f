"""Tensor parallelism: sharded layers and the processes that run them."""
