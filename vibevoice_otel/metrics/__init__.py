"""Histograms and counters derived from span records, and gauges read from live state."""
