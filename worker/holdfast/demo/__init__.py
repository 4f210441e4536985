"""The demo: three workers train, one is killed in the middle of a save, and the run ends as if nothing had happened.

`training` is the program that every worker runs, and an example of how to use Holdfast. The rest plays the cluster
manager: `processes` starts and ends the workers, `sabotage` finds the middle of a save, `compare` compares the result
with an uninterrupted run bit by bit, `picture` draws both, and `story` tells everything in order.
"""
