"""Solutions: what a shop does with the loop. Each is built on the loop's protocols and knows no other."""
