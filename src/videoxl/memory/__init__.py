"""Keys and values kept."""
