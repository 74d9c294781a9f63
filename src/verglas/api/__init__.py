"""Use cases: what the command line, the server and notebooks call."""
