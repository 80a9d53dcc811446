"""Learning views, and what frozen views are worth: the game, its data, its estimators, the evaluation."""
