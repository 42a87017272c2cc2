"""The `.vxl` file of a video memory."""
