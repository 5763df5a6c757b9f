"""Holding requests: HTTP, engine thread, scheduler, streams. The only package that imports the
others.
"""
