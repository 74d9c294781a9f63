"""The command line: it translates what a person types into calls of the API."""
