"""What a workspace, and an actor in it, may use of the machines: limits, what was used, and the queue of runs with fair shares.

No rule that is the business of another room: runs are handed to the queue with what they need and what the machine has, what they cost is
told here by whoever measured it, and requests are let through or not by the gateway.
"""
