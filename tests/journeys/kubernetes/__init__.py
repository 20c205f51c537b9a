"""Gateway and keeper as people run them, on a pretended cluster whose pods hold pretended engines."""
