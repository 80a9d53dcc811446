"""The scientific half: how much information views share, what they are worth, and views that are learned."""
