"""Methods: how each is configured, trained and saved."""
