"""The report as one self-contained HTML page. Escapes everything; computes nothing."""
