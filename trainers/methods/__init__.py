"""How each method is made."""
