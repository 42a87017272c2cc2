"""What a program that plans by itself may do with videos: open, ask, search, look."""
