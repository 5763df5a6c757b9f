"""What a route does with a valid request, from submission to the last event."""
