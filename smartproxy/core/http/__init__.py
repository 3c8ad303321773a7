"""HTTP meaning, whatever the version on the wire: messages, exchanges, header rules, errors."""
