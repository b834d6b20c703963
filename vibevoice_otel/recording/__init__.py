"""From facts noted on the model's thread to finished span records: timeline -> assembler -> sinks."""
