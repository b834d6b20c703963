"""Grafana's own view of our dashboards: its transformations without a Grafana (data.py), and all of it in a running one
(check.py).
"""
