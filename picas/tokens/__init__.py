"""What a token is, without a database: its states, what it needs, when it is tried again."""
