"""Moving bytes between two streams without looking into them."""
