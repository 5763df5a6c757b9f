"""Images as token grids: layout, pixels and the VQ decoder."""
