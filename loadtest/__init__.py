"""Black-box load tests over HTTP. Imports none of the sibling packages."""
