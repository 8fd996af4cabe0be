"""What a suite of attacks says of a defense: the worst case over its members, and alarms that it
masks gradients.
"""
