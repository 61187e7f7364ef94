"""The protocol and its measures."""
