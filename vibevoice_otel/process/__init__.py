"""The life of the process: its end, its workers, its metrics page."""
