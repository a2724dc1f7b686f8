"""Studies: runs that answer a question, summarised in a table."""
