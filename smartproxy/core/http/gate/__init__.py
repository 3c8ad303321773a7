"""What a request must pass before it is served: rate limit, challenge, authentication, in this order."""
