"""Learning and judging."""
