"""Catalogs moved from one database to another, and proven equal."""
