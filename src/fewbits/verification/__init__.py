"""What was written is read again and compared with what was meant, number by number, before it gets its name."""
