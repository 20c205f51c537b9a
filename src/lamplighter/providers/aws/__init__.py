"""Machines of AWS that come when asked and end themselves when forgotten. The one package that knows AWS's library."""
