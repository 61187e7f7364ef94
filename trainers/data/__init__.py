"""Interactions, domains and raw data."""
