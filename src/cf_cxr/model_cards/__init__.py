"""Model cards: a model's facts and measured numbers as a README on the Hub."""
