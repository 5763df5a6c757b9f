"""The bundled ``stories`` checkpoint; see README.md, its card."""
