"""A user study of two runs: whose reconstructions look more like the private identities?"""
