"""Hourly forecasts: methods that tell how much each series sells in each coming hour, and the spread around it.

A method learns from shards (any contiguous block of series; what a shard tells is arrays only), is fitted once from what all shards told,
and forecasts shard by shard; however the series are cut, the answers are the same. Facts that series share are kept by label, so that a
fit answers for products and stores it has never seen. Pure: nothing here reads, writes or keeps time.
"""
