"""What people read of a study: summaries and tables. Reads, never writes."""
