"""The bundled ``digits`` checkpoint; see README.md, its card."""
