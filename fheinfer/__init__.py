"""fheinfer: a neural network looks at a picture that it never sees."""
