"""HTTP server that translates, with the API of LibreTranslate."""
