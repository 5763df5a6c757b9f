"""Engine events to text, log-probabilities and images."""
