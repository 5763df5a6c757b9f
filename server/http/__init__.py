"""HTTP transport: protocol, middleware, errors; independent of models and engine."""
