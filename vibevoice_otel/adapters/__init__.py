"""One file for each system that is observed. An adapter finds hook points and translates them into timeline notes; it
knows no span.
"""
