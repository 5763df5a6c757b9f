"""The engine: scheduling, denoising steps and the events they produce."""
