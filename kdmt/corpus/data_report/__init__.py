"""The page `report.html` of the prepare stage: measurements of the training text, and their presentation."""
