"""The local web page: a client of a service, with the secret key, for the browser of this machine alone."""
