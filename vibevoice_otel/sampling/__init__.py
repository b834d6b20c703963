"""Every decision on which spans are exported."""
