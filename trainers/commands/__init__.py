"""Commands: what a user runs, one module each, with `run` for Python and `main` for the command line."""
