"""What people look at: pages and the pictures on them, served from memory, nothing fetched."""
