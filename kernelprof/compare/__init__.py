"""Compare two runs: what became slower, what faster, and what neither can tell."""
