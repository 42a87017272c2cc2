"""What is said and what is written on screen, as tracks of cues on a video's clock; shots and chapters."""
