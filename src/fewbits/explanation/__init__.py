"""What a format does to given numbers or to a tensor of a file, shown number by number and bin by bin."""
