"""Who may connect: address rules and limits, as pure data structures."""
