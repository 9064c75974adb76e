"""What a round of training computes, on one device or several, as a state that can be saved and taken up."""
