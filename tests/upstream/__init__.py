"""The unmodified microsoft/VibeVoice, observed: against a double always, against a checkout by ``make test-upstream
UPSTREAM=path``.
"""
