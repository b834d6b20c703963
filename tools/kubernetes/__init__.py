"""The chart as helm renders it, and a real Kubernetes API on this machine to judge what it renders."""
