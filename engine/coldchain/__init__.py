"""The cold chain: slots that are held, booked and watched; what the ledger records of them."""
