"""The HTTP API: application, routes, jobs and schemas."""
