"""What every stage of training shares."""
