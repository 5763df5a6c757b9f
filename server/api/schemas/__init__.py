"""Request bodies and response objects."""
