"""What the routes answer, for the specification alone: nothing is built or checked with these."""
