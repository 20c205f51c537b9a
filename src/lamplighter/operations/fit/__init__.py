"""`lamplighter fit`: will this model run on that GPU, with how much context and how many at once? `find` gets the model's own configuration,
`machines` what a person means by a GPU, `answer` puts what `engines.sizing` counts into words and JSON.
"""
