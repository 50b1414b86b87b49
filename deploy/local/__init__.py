"""The whole platform on one machine, which needs only Python."""
