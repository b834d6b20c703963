"""docker-compose.yml run for real: an engine of our own where none runs, and images made here where no registry
answers.
"""
