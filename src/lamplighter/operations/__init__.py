"""What keeps an installation running and explains it: its data folder, the client of its own API, the doctor.

Not responsible for serving or for capacity: those are the two planes.
"""
