"""Runs that answer a question, with a table at the end."""
