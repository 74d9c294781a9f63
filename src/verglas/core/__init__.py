"""Errors, units, checks, ids, files, registry and logs: what everything else stands on."""
