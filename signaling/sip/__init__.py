"""RFC 3261, one layer a file."""
