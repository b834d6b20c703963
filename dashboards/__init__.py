"""Recording rules, alerts and Grafana dashboards, generated from vibevoice_otel.semconv: ``python -m dashboards``
writes them.
"""
