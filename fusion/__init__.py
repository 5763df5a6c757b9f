"""Triton kernels of networks and samplers, and the choice between each of them and the operations
of PyTorch that it replaces.
"""
