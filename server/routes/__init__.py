"""HTTP routes, one file per resource. Wire types stop here."""
