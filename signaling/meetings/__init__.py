"""Rooms elsewhere that we join, each by its server's own protocol."""
