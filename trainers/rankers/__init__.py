"""Whatever ranks items."""
