"""Putting functions in and taking them out, without hurting the host."""
