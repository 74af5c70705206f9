"""The page `report.html`: what it contains, how its parts are computed, and how it is drawn."""
