"""Live: stock that moves before one's eyes, for browsers, phones and other systems' clients."""
