"""A GPU whose truth is known: nothing but tests can reach it."""
