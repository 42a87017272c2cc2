"""Videos that are still being made: cameras, broadcasts, files that grow.

The network belongs to this program alone: what comes in is handed to a decoder process through a pipe, and that process
is confined as it is for files. It can open no connection, whatever a stream tells it.
"""
