"""Two sides of one service: what changed, by how much, and how sure that is."""
