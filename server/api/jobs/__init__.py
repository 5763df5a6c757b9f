"""Jobs of checked requests: submission, reading of events, answers and streams."""
