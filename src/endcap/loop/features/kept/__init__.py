"""What of a view is kept: batches of its rows, tiles of its windows, the newest row of each key, and how they come to be, a run at a time."""
