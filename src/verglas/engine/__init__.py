"""Scheduling: which chunks must run, where they run, and what became of them."""
