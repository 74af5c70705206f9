"""The scoreboard: claims of the literature, each with its experiment, its measurement and its verdict."""
