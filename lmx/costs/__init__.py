"""What a compiled step costs: operations, memory, messages, and the time that they must take."""
