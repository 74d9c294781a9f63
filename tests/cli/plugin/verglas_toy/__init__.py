"""A plugin for tests: protocols on plain numbers."""
