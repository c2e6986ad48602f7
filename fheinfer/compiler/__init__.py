"""Model and parameter set -> plan."""
