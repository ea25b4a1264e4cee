"""The ground: no word of a sale in here."""
