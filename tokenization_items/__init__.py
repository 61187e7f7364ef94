"""Items and their identifiers."""
