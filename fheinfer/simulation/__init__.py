"""A plan on whole batches of clear pictures, exact or with the noise of an encrypted run. Imports torch."""
