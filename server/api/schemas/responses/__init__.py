"""Response objects, as the OpenAPI document shows them."""
