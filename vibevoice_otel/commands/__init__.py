"""The command line: demo, doctor, probe."""
