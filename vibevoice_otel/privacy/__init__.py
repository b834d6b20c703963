"""What may be told: the spoken text is hidden from URLs, logs and exceptions."""
