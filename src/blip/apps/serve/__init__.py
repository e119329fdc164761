"""The HTTP service: captions, answers, matches, vectors and heat-maps over REST, batched, within limits.

`app` is the web application, the same over two engines: `local` (worker processes of one machine) and
`ray_app` (Ray Serve, several machines). Both run `models` where the weights are.
"""
