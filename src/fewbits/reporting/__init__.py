"""What was done and what it cost: the record, the card beside the output, and the tables on the screen."""
