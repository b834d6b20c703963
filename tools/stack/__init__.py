"""Starts the real programs of the pipeline on this machine with the very files that docker-compose.yml mounts."""
