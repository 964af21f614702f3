"""What is written for one segmented image, and the functions that compute it."""
